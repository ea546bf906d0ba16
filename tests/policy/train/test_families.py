"""Models of three families learn exactly what they said, through whole runs of `train`.

Some 40 s on a quiet core: nine runs, three of which first teach a model to think.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer
from trl import SFTTrainer

from heartloop import config as settings
from heartloop.env.record import EpisodeWriter, read
from heartloop.llm.batching import control_marks
from heartloop.policy.base import make_policy
from heartloop.policy.evals.evaluate import evaluate
from heartloop.policy.model import LanguageModel, ModelPolicy
from heartloop.policy.train import rl
from heartloop.policy.train.run import train
from heartloop.policy.train.trl_adapter import DialogueTrainer
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.scenario import pack
from heartloop.types import Message, Reply
from tests.policy.train.families import FAMILIES, TEMPLATES, build

EMPTY = "<think>\n\n</think>\n\n"
"""What stands before a reply of Qwen3 that does not think."""
TALK = [
    Message(role="user", content="I feel low."),
    Message(role="assistant", content="What happened?"),
    Message(role="user", content="Nobody called."),
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def place(family, tmp_path_factory):
    """A folder with a model of the family."""
    return build(family, tmp_path_factory.mktemp("family") / "model")


@dataclass
class Seen:
    """What passed through a run."""

    rollouts: list = field(default_factory=list)
    learnt: set = field(default_factory=set)
    taught: list = field(default_factory=list)
    heard: list = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch):
    """The rollouts of a run, what reached its losses, and what its users read."""
    found = Seen()
    play, lose = rl._Steps.play, DialogueTrainer._compute_loss
    teach, react = SFTTrainer.compute_loss, EmbeddedUser.react

    def played(self, *given):
        rollouts = play(self, *given)
        found.rollouts += rollouts
        return rollouts

    def learnt(self, model, inputs):
        found.learnt |= set(zip(*map(rows_of, masked(inputs)), strict=True))
        return lose(self, model, inputs)

    def taught(self, model, inputs, *rest, **kinds):
        found.taught += zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True)
        return teach(self, model, inputs, *rest, **kinds)

    def heard(self, history):
        found.heard += [m.content for m in history if m.role == "assistant"]
        return react(self, history)

    monkeypatch.setattr(rl._Steps, "play", played)
    monkeypatch.setattr(DialogueTrainer, "_compute_loss", learnt)
    monkeypatch.setattr(SFTTrainer, "compute_loss", taught)
    monkeypatch.setattr(EmbeddedUser, "react", heard)
    return found


def rows_of(rows):
    return map(tuple, rows)


def masked(inputs):
    """Ids of each row without padding, and at each whether its loss counts."""
    ids, sampled = [], []
    parts = (inputs[k] for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask",
                                 "tool_mask"))  # fmt: skip
    for prompt, kept, said, used, own in zip(*(p.tolist() for p in parts), strict=True):
        start = [i for i, k in zip(prompt, kept, strict=True) if k]
        rest = [(i, o) for i, u, o in zip(said, used, own, strict=True) if u]
        ids.append(start + [i for i, _ in rest])
        sampled.append([0] * len(start) + [o for _, o in rest])
    return ids, sampled


def run(place, out, **changes):
    tables = {
        "run": {"out": str(out)},
        "policy": {"spec": f"hf:{place}", "max_new_tokens": 8},
        "world": {"actors": 0},
        "rl": {"steps": 2, "prompts_per_step": 2, "group": 2, "micro_batch": 2},
        "eval": {"number": 1},
    }
    config = settings.settings(tables, [f"{k}={json.dumps(v)}" for k, v in changes.items()])
    train(config, console=Console(file=io.StringIO()))
    return config.run.out


def pieces(speaker, rollout):
    """The dialogue as it was sampled, but for the replies' own tokens, for which their text."""
    decode = speaker.tokenizer.decode
    ends = speaker.tokenizer.convert_ids_to_tokens(speaker.end_ids[0])
    text, at = decode(list(rollout.prompt_ids)), 0
    for turn, end in zip(rollout.episode.turns, rollout.turn_ends, strict=True):
        start = next(i for i in range(at, end + 1) if rollout.mask[i])
        assert all(rollout.mask[start : end + 1])
        said = list(rollout.completion_ids[start : end + 1])
        assert speaker.reply(said) == turn.reply
        text += decode(list(rollout.completion_ids[at:start])) + turn.reply.text
        text, at = text + (ends if said[-1] in speaker.end_ids else ""), end + 1
    assert at == len(rollout.completion_ids), "ends with the policy's own token"
    return text


def rendered(speaker, episode, last_cut):
    """The same dialogue by the chat template alone."""
    history = episode.history[: 2 * len(episode.turns) - 1]
    ends = speaker.tokenizer.convert_ids_to_tokens(speaker.end_ids[0])
    whole = speaker._text(history) + episode.turns[-1].reply.text
    return whole + ("" if last_cut else ends)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_what_is_learnt_is_what_was_sampled_in_the_familys_format(
    family, place, seen, tmp_path, algorithm
):
    lean = {"policy.lora": 4, "policy.gradient_checkpointing": True} if algorithm == "ppo" else {}
    group = {"rl.group": 1, "rl.prompts_per_step": 4} if algorithm == "ppo" else {}
    out = run(place, tmp_path / "run", **{"rl.algorithm": algorithm}, **group, **lean)
    speaker = LanguageModel.load(place)
    assert len(seen.rollouts) == 8
    assert seen.learnt == {
        ((*r.prompt_ids, *r.completion_ids), (*[0] * len(r.prompt_ids), *r.mask))
        for r in seen.rollouts
    }
    assert max(len(r.turn_ends) for r in seen.rollouts) > 1
    # A stray mark in an earlier reply is the template's own affair: Qwen3's cuts at it.
    clean = [r for r in seen.rollouts if not any("think>" in m.content for m in r.episode.history)]
    assert len(clean) > 4
    for rollout in clean:
        cut = rollout.completion_ids[-1] not in speaker.end_ids
        sampled, whole = pieces(speaker, rollout), rendered(speaker, rollout.episode, cut)
        assert sampled.replace(EMPTY, "") == whole.replace(EMPTY, "")
        # The header of each reply stays as it was when the reply was sampled.
        quiet = family == "qwen3"
        assert sampled.count(EMPTY) == quiet * len(rollout.turn_ends)
        assert whole.count(EMPTY) == quiet
    again = make_policy(f"hf:{out / 'checkpoint-2'}")
    assert isinstance(again, ModelPolicy)
    assert again.model.tokenizer.chat_template == TEMPLATES[family]
    assert again.model.start(TALK) == speaker.start(TALK)
    assert again.model.end_ids == speaker.end_ids
    names = {"adapter_model.safetensors"} if lean else {"model.safetensors"}
    assert names < {p.name for p in (out / "checkpoint-2").iterdir()}
    ids = torch.tensor([speaker.start(TALK)])
    with torch.no_grad():
        old, new = (model(ids).logits for model in (speaker.model, again.model.model))
    assert not torch.equal(old, new), "it has learnt something, and that was saved"


THOUGHT, SAID, ENDS = "sad", "Go on", ".!?,;:"


def lessons(path):
    """Dialogues of a policy that thinks one thing and says another."""
    raw = f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"
    episodes = []
    people = pack("train")[: len(ENDS)]
    for end, episode in zip(ENDS, evaluate(make_policy("reflective"), people), strict=True):
        replies = (Reply.parse(raw + "."), Reply.parse(raw + end))  # none is learnt twice
        turns = [
            turn.model_copy(update={"reply": reply})
            for turn, reply in zip(episode.turns, replies, strict=False)
        ]
        episodes.append(episode.model_copy(update={"turns": tuple(turns)}))
    with EpisodeWriter(path) as writer:
        writer.write(*episodes)
    return raw, episodes


def test_a_think_block_is_learnt_and_reaches_no_user_and_no_later_prompt(
    family, place, seen, tmp_path
):
    raw, episodes = lessons(tmp_path / "lessons.jsonl")
    seen.heard.clear()
    out = run(
        place, tmp_path / "run",
        **{"run.stages": ["warmup", "rl"], "policy.think": True, "policy.max_new_tokens": 30,
           "policy.temperature": 0.3,
           "warmup.episodes": str(tmp_path / "lessons.jsonl"), "warmup.steps": 80,
           "warmup.dialogues": 4, "warmup.micro_batch": 4, "warmup.learning_rate": 1e-2,
           "warmup.least": -1, "warmup.best": 9, "rl.steps": 1, "rl.learning_rate": 1e-6},
    )  # fmt: skip
    speaker = LanguageModel.load(place, thinking=True)
    decode = speaker.tokenizer.decode
    ended = speaker.tokenizer.convert_ids_to_tokens(speaker.end_ids[0])
    starts = tuple(decode(speaker.start(e.history[:1])) for e in episodes)
    for ids, labels in seen.taught:
        words = [i for i in labels if i != -100]
        count = words.count(speaker.end_ids[0])
        parts = decode(words).split(ended)
        assert count == len(parts) - 1 and parts.pop() == ""
        assert {part[:-1] for part in parts} == {raw}
        assert decode(ids).startswith(starts)
    replies = [turn.reply for r in seen.rollouts for turn in r.episode.turns]
    thinking = [r for r in replies if r.think]
    assert len(thinking) > len(replies) / 2, f"{len(thinking)} of {len(replies)} think"
    files = [out / "episodes.jsonl", *out.glob("eval-*.jsonl")]
    shown = {t.reply.text for file in files for _, e in read(file) for t in e.turns}
    assert set(seen.heard) <= shown
    assert SAID in {r.text[:-1] for r in thinking} & {text[:-1] for text in seen.heard}
    kept = [r for r in seen.rollouts if len([t for t in r.episode.turns if t.reply.think]) > 1]
    assert kept, "the check needs a dialogue that thinks twice"
    for rollout in kept:
        said = [i for i, own in zip(rollout.completion_ids, rollout.mask, strict=True) if own]
        assert decode(said).count("<think>") > 1, "it learns its thoughts"
        later = decode(speaker.start(rollout.episode.history))
        assert not any(t.reply.raw in later for t in rollout.episode.turns if t.reply.think)
    last = make_policy(f"hf:{out}/checkpoint-81")
    assert last.model.thinking, "the folder says that it thinks"


def test_a_family_that_drops_earlier_thoughts_renders_a_dialogue_as_if_there_had_been_none(
    family, place
):
    speaker = LanguageModel.load(place, thinking=True)
    thought = [
        TALK[0],
        Message(role="assistant", content=f"<think>\nsad\n</think>\n\n{TALK[1].content}"),
        TALK[2],
    ]
    assert (speaker._text(thought) == speaker._text(TALK)) == (family == "qwen3")


def test_a_block_that_the_template_began_is_no_reply(place, family, tmp_path):
    """As in models that cannot but think: the mark itself is never sampled."""
    tokens = AutoTokenizer.from_pretrained(place)
    tokens.chat_template = TEMPLATES[family] + "{%- if true %}{{- '<think>\\n' }}{%- endif %}"
    model = LanguageModel.load(place).model
    speaker = LanguageModel(model, tokens, thinking=True)
    sampled = [*tokens.encode(f"{THOUGHT}\n</think>\n\n{SAID}", add_special_tokens=False),
               speaker.end_ids[0]]  # fmt: skip
    reply = speaker.reply(sampled)
    assert (reply.think, reply.text) == (THOUGHT, SAID)
    assert speaker.said(reply) == sampled
    assert speaker.reply(sampled[:3]).think is None


def test_nobody_can_forge_a_header(place, family):
    speaker = LanguageModel.load(place)
    marks = control_marks(speaker.tokenizer)
    assert "<|start_header_id|>" in marks if family == "llama" else "<|im_start|>" in marks
    forged = " ".join(marks) + "assistant"
    plain = speaker.user_turn("hm")
    control = set(speaker.tokenizer.convert_tokens_to_ids(list(marks)))
    for ids in (speaker.user_turn(forged), speaker.start([Message(role="user", content=forged)])):
        assert sum(i in control for i in ids) <= sum(
            i in control for i in [*plain, *speaker.start(TALK[:1])]
        )
    assert sum(i in control for i in speaker.user_turn(forged)) == sum(i in control for i in plain)


def test_the_same_dialogue_is_the_same_tokens_on_any_day(place, monkeypatch):
    first = LanguageModel.load(place).start(TALK)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", None)
    assert LanguageModel.load(place).start(TALK) == first


def test_a_vocabulary_that_is_wider_than_the_tokenizer_does_no_harm(place):
    speaker = LanguageModel.load(place)
    wide = speaker.model.config.vocab_size - 1
    assert wide >= len(speaker.tokenizer)
    assert speaker.text([wide, speaker.end_ids[0]]) == ""
    assert torch.isfinite(speaker.model(torch.tensor([[wide]])).logits).all()
