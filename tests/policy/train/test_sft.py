"""Supervised stages learn the best dialogues, word for word as a rollout would hold them."""

import io
import json
from functools import partial

import pytest
from rich.console import Console

from heartloop import config as settings
from heartloop.chat.export import export
from heartloop.env.play import LocalWorld, Task
from heartloop.env.record import EpisodeWriter
from heartloop.errors import InvalidInput, RecordError
from heartloop.policy.base import make_policy
from heartloop.policy.evals.evaluate import evaluate
from heartloop.policy.model import LanguageModel
from heartloop.policy.train import sft
from heartloop.policy.train.rollout import Driver
from heartloop.policy.train.run import train
from heartloop.rewards import reward
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack
from heartloop.types import Message, Reply
from tests.chat.parts import Streamer, session, talk
from tests.fakes import ToyPolicy
from tests.policy.train.families import build


def rollouts(speaker, samples=3):
    driver = Driver(LocalWorld(partial(make_user, "embedded")), speaker, reward("final"), 8, 1.0)
    tasks = [Task(person, 5, sample) for person in pack("train")[:2] for sample in range(samples)]
    return driver.play(tasks, "tiny@0")


def test_a_dialogue_becomes_its_tokens_of_which_the_replies_count(speaker):
    for episode in evaluate(make_policy("reflective"), pack("train")[:3]):
        row = sft.tokens(speaker, episode)
        places = zip(row["input_ids"], row["labels"], strict=True)
        said = [i for i, label in places if label != sft.IGNORED]
        assert said == [i for turn in episode.turns for i in speaker.said(turn.reply)]
        history = episode.history[: 2 * len(episode.turns) - 1]
        assert row["input_ids"] == [*speaker.start(history), *speaker.said(episode.turns[-1].reply)]


def test_the_best_of_each_person_is_kept_once(speaker):
    episodes = [r.episode for r in rollouts(speaker)]
    kept = sft.select([*episodes, *episodes], least=0.0, best=1)
    for episode in kept:
        rivals = [e.score.value for e in episodes if e.scenario.id == episode.scenario.id
                  and all(t.reply.text for t in e.turns)]  # fmt: skip
        assert episode.score.value == max(rivals)
    assert len({e.scenario.id for e in kept}) == len(kept)
    assert not sft.select(episodes, least=1.1, best=1)
    unscored = [e.model_copy(update={"score": None}) for e in episodes]
    assert not sft.select(unscored, least=0.0, best=1)


def test_rows_come_in_passes_each_in_an_order_of_its_own():
    places = sft.order(4, 10, "seed")
    assert [sorted(places[:4]), sorted(places[4:8])] == [[0, 1, 2, 3]] * 2
    assert sft.order(4, 6, "seed") == places[:6]
    assert len({tuple(sft.order(9, 9, str(seed))) for seed in range(5)}) == 5


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


def lessons(folder, *rows):
    path = folder / "lessons.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return sft.read(path)


def learnt(row):
    return [label for label in row["labels"] if label != sft.IGNORED]


def test_a_line_of_messages_becomes_the_tokens_of_a_dialogue(speaker, tmp_path):
    rows = [user("My cat ran away."), said("Oh no."), user("She is old."), said("Tell me more.")]
    (talk_,) = lessons(tmp_path, {"messages": rows, "source": "somewhere"})
    row = sft.tokens(speaker, talk_)
    history = [Message(**r) for r in rows[:3]]
    replies = [speaker.said(Reply(text=r["content"])) for r in (rows[1], rows[3])]
    assert row["input_ids"] == [*speaker.start(history), *replies[1]]
    assert learnt(row) == replies[0] + replies[1]
    assert len(row["labels"]) == len(row["input_ids"])


def test_a_think_block_is_learnt_with_its_reply(speaker, tmp_path):
    raw = "<think>sad</think> Oh no."
    (talk_,) = lessons(tmp_path, {"messages": [user("Hi"), said(raw)]})
    assert learnt(sft.tokens(speaker, talk_)) == speaker.said(Reply.parse(raw))


def test_what_weighs_nothing_and_what_follows_the_last_reply_is_not_learnt(speaker, tmp_path):
    rows = [user("Hi"), said("Well, I", weight=0), user("Go on"), said("I hear you."), user("OK")]
    (talk_,) = lessons(tmp_path, {"messages": rows})
    row = sft.tokens(speaker, talk_)
    assert learnt(row) == speaker.said(Reply(text="I hear you."))
    cut, whole = (speaker.said(Reply(text=text)) for text in ("Well, I", "I hear you."))
    start = speaker.start([Message(**rows[0])])
    assert row["input_ids"] == [*start, *cut, *speaker.user_turn("Go on"), *whole]


def test_a_reply_without_words_is_not_learnt(speaker, tmp_path):
    rows = [user("Hi"), said(" "), user("Hello?"), said("I hear you.")]
    (talk_,) = lessons(tmp_path, {"messages": rows})
    assert learnt(sft.tokens(speaker, talk_)) == speaker.said(Reply(text="I hear you."))


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """A model whose template shows system messages."""
    return LanguageModel.load(build("qwen2.5", tmp_path_factory.mktemp("family") / "model"))


def test_a_policy_with_a_system_message_learns_under_its_own(chatty, tmp_path):
    own = LanguageModel(chatty.model, chatty.tokenizer, system="You listen.")
    recorded = {"role": "system", "content": "You advise."}
    told, plain = lessons(tmp_path, {"messages": [recorded, user("Hi"), said("Oh.")]},
                          {"messages": [user("Hi"), said("Oh.")]})  # fmt: skip
    assert sft.tokens(own, told) == sft.tokens(own, plain)
    assert sft.tokens(chatty, told) != sft.tokens(chatty, plain)


def test_there_is_one_system_message_whoever_gives_one(chatty):
    own = LanguageModel(chatty.model, chatty.tokenizer, system="You listen.")
    asked = Message(role="user", content="Hi")
    both = own.start([Message(role="system", content="Be kind."), asked])
    assert both == chatty.start([Message(role="system", content="You listen.\n\nBe kind."), asked])


def test_messages_of_one_side_in_a_row_are_read_as_one(speaker, tmp_path):
    apart = {"messages": [user("One."), user("Two."), said("I see.")]}
    joined = {"messages": [user("One.\n\nTwo."), said("I see.")]}
    first, second = lessons(tmp_path, apart, joined)
    assert sft.tokens(speaker, first) == sft.tokens(speaker, second)


@pytest.mark.parametrize(
    ("row", "says"),
    [({"messages": [user("Hi")]}, "expected a reply of the assistant"),
     ({"messages": [said("Hi"), user("Hi")]}, "to a message of the user"),
     ({"messages": [user("Hi"), said("Well", weight=0)]}, "with words and a weight of 1"),
     ({"messages": [user("Hi"), {"role": "system", "content": "x"}, said("a")]}, "before all"),
     ({"messages": [{"role": "tool", "content": "x"}]}, r"messages.0.role"),
     ({"text": "x"}, "expected an episode: .*a line of `messages` is taken as well"),
     (3, "a line of `messages` is taken as well")],
)  # fmt: skip
def test_a_line_that_teaches_nothing_is_named(row, says, tmp_path):
    good = {"messages": [user("Hi"), said("Hello.")]}
    with pytest.raises(RecordError, match=rf"lessons.jsonl:2: .*{says}"):
        lessons(tmp_path, good, row)


def test_a_file_without_lines_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="is empty: expected lines of episodes or of `messages`"):
        lessons(tmp_path)
    with pytest.raises(InvalidInput, match="cannot read"):
        sft.read(tmp_path / "none.jsonl")


def test_talks_are_all_learnt_once_beside_the_best_episodes(speaker, tmp_path):
    episodes = evaluate(make_policy("reflective"), pack("train")[:2])
    path = tmp_path / "both.jsonl"
    with EpisodeWriter(path) as writer:
        writer.write(*episodes)
    with path.open("a") as file:
        file.write(2 * (json.dumps({"messages": [user("Hi"), said("Hello.")]}) + "\n"))
    kept = sft.select(sft.read(path), least=0.0, best=1)
    assert kept[:2] == list(episodes) and len(kept) == 3 and isinstance(kept[2], sft.Talk)
    assert [type(lesson) for lesson in sft.select(kept, least=2.0, best=1)] == [sft.Talk]


def exported(folder):
    """A file of what a talk and a comparison in the client export, a broken off reply in it."""
    one = talk(session("talk", "toy"), "My cat ran away.", "She is old.")
    players = {"p": Streamer("I hear you."), "q": ToyPolicy(lambda _: "<think>sad</think> Oh.")}
    two = talk(session("compare", "p", "q", players=players), "I lost my keys.")
    two.other()
    talk(two, "And my way.")
    two.say("Hm.")
    for _ in two.answer():
        two.stop()
    lines = [
        export(each, "jsonl", folder / f"{number}.jsonl").read_text("utf-8")
        for number, each in enumerate((one, two))
    ]
    (folder / "talks.jsonl").write_text("".join(lines), "utf-8")
    return folder / "talks.jsonl"


def test_the_trainer_learns_from_what_the_chat_client_exports(folder, tmp_path):
    path = exported(tmp_path)
    first, second = sft.read(path)
    assert [said.role for said in first.messages] == ["user", "assistant"] * 2
    assert second.messages[1].content == "<think>sad</think> Oh."
    assert (second.messages[-1].content, second.messages[-1].weight) == ("I", 0)
    tables = {
        "run": {"out": str(tmp_path / "run"), "stages": ["warmup"]},
        "policy": {"spec": str(folder), "max_new_tokens": 8},
        "world": {"actors": 0},
        "warmup": {"episodes": str(path), "steps": 2, "dialogues": 2, "micro_batch": 2},
        "eval": {"number": 1},
    }
    out = train(settings.settings(tables, []), console=Console(file=io.StringIO())).folder
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert [(row["stage"], row["kept"]) for row in rows] == [("warmup", 2)] * 2
    assert not list(out.glob("warmup-*.jsonl"))
    weights = [f / "model.safetensors" for f in (folder, out / "checkpoint-2")]
    assert weights[0].read_bytes() != weights[1].read_bytes()
