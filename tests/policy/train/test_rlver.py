"""RLVER's recipes as they are shipped: both algorithms, without thinking and with it, whole runs.

Some 35 s on a quiet core. Only sizes, the model's folder and the user's endpoint are not those of
the files; the users are played through HTTP.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from heartloop import config as settings
from heartloop.config import TrainConfig
from heartloop.env.record import read
from heartloop.env.verify import check
from heartloop.policy.model import LanguageModel
from heartloop.policy.serve.app import Served, make_app
from heartloop.policy.train import ppo, rl
from heartloop.policy.train.run import train
from heartloop.policy.train.trl_adapter import DialogueTrainer, trimmed
from tests.policy.train.families import build
from tests.policy.train.test_families import lessons
from tests.policy.train.test_run import timeless

HOME = Path(__file__).parents[3]
SIZES = {"ppo": 8, "grpo": 2}
"""Of `rl.prompts_per_step`: 32 there; a group of GRPO has four dialogues."""


@pytest.fixture(scope="module")
def url():
    with Served(make_app(["brain"])) as server:
        yield server.base_url


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with a model of Qwen2.5's kind: as made, and taught to think nearly always."""
    home = tmp_path_factory.mktemp("models")
    plain = build("qwen2.5", home / "plain")
    lessons(home / "lessons.jsonl")
    tables = {
        "run": {"out": str(home / "taught"), "stages": ["warmup"]},
        "policy": {"spec": f"hf:{plain}", "think": True, "max_new_tokens": 8,
                   "system": str(HOME / "configs/rlver-think.txt")},
        "world": {"actors": 0},
        "warmup": {"episodes": str(home / "lessons.jsonl"), "steps": 120, "dialogues": 2,
                   "micro_batch": 2, "learning_rate": 1e-2, "least": -1, "best": 9},
        "eval": {"number": 1},
    }  # fmt: skip
    train(settings.settings(tables), console=Console(file=io.StringIO()))
    return {False: plain, True: home / "taught" / "checkpoint-120"}


def recipe(algorithm, thinks, out, models, url, **changes) -> TrainConfig:
    """A shipped recipe, or the other arm as its first lines describe it, in a small size."""
    file = HOME / "configs" / f"rlver-{algorithm}.toml"
    arm = re.findall(r"--set (\S+)", file.read_text()) if thinks else []
    assert len(arm) == 3 * thinks
    user = settings.load(file).world.user
    sizes = {
        "run.out": out, "policy.spec": f"hf:{models[thinks]}", "policy.max_new_tokens": 24,
        "world.user": user.replace("NAME@http://127.0.0.1:8000/v1", f"brain@{url}"),
        "rl.steps": 2, "rl.prompts_per_step": SIZES[algorithm], "eval.number": 1,
    }  # fmt: skip
    return settings.load(file, [*arm, *(f"{k}={v}" for k, v in (sizes | changes).items())])


@dataclass
class Seen:
    """What passed through a run."""

    config: TrainConfig
    rollouts: list[Any] = field(default_factory=list)
    """By batch."""
    advantages: list[Any] = field(default_factory=list)
    returns: list[Any] = field(default_factory=list)
    trainer: Any = None
    inputs: Any = None
    """Of the last loss."""
    parts: Any = None
    """Of the last batch, as the critic saw it."""


def played(config, monkeypatch) -> Seen:
    """Run a recipe to its end, and watch."""
    seen = Seen(config)
    play, judge = rl._Steps.play, DialogueTrainer._generate_and_score_completions
    lose, teach = DialogueTrainer._compute_loss, ppo.PpoTrainer._teach

    def watched_play(self, *given):
        rollouts = play(self, *given)
        seen.rollouts.append(rollouts)
        return rollouts

    def watched_judge(self, rows):
        output = judge(self, rows)
        seen.advantages.append(output["advantages"])
        return output

    def watched_lose(self, model, inputs):
        seen.trainer, seen.inputs = self, dict(inputs)
        return lose(self, model, inputs)

    def watched_teach(self, parts, returns):
        seen.parts = parts
        seen.returns.append(returns)
        teach(self, parts, returns)

    with monkeypatch.context() as patch:
        patch.chdir(HOME)
        patch.setattr(rl._Steps, "play", watched_play)
        patch.setattr(DialogueTrainer, "_generate_and_score_completions", watched_judge)
        patch.setattr(DialogueTrainer, "_compute_loss", watched_lose)
        patch.setattr(ppo.PpoTrainer, "_teach", watched_teach)
        train(config, console=Console(file=io.StringIO()))
    return seen


@pytest.fixture(scope="module", params=["ppo", "grpo"])
def algorithm(request):
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "thinking"])
def thinks(request):
    return request.param


@pytest.fixture(scope="module")
def seen(algorithm, thinks, models, url, tmp_path_factory):
    """A run of one arm."""
    out = tmp_path_factory.mktemp(algorithm) / "run"
    with pytest.MonkeyPatch.context() as patch:
        return played(recipe(algorithm, thinks, out, models, url), patch)


def test_every_arm_takes_one_optimiser_step_for_each_batch_of_dialogues(seen):
    rows = timeless(seen.config.run.out)
    assert [row["step"] for row in rows] == [1, 2]
    assert len(seen.rollouts) == 2, "a batch is learnt from once"
    peak, rise = 1e-6, 21
    assert [row["learning_rate"] for row in rows] == pytest.approx([peak / rise, 2 * peak / rise])
    assert [row["dialogues"] for row in rows] == [8, 8]
    assert {row["errored"] for row in rows} == {0}
    assert all(row["grad_norm"] > 0 and row["clipped"] == 0 for row in rows)
    assert not (seen.config.run.out / "reference-0").exists(), "no divergence is held against it"


def test_the_users_follow_rlvers_rules_and_every_dialogue_can_be_recomputed(seen, url):
    episodes = [e for _, e in read(seen.config.run.out / "episodes.jsonl")]
    assert [e.score for e in episodes] == [r.episode.score for b in seen.rollouts for r in b]
    assert {(e.preset, e.opening.emotion) for e in episodes} == {("rlver-train", 30)}
    assert all(f"trainer+openai:brain@{url}" in e.user for e in episodes)
    assert max(len(e.turns) for e in episodes) <= 9
    assert [str(found) for e in episodes for found in check(e)] == []


def test_the_policy_hears_the_arms_system_message_first(seen, thinks):
    told = (HOME / "configs" / f"rlver-{'think' if thinks else 'plain'}.txt").read_text().strip()
    speaker = LanguageModel.load(Path(seen.config.policy.spec.removeprefix("hf:")))
    prompts = {r.prompt_ids for batch in seen.rollouts for r in batch}
    assert all(
        speaker.tokenizer.decode(list(ids)).startswith(f"<|im_start|>system\n{told}<|im_end|>")
        for ids in prompts
    )


def test_a_dialogue_earns_its_last_emotion_and_nothing_where_a_think_block_is_broken(seen, thinks):
    episodes = [r.episode for batch in seen.rollouts for r in batch]
    if not thinks:
        assert [e.score.value for e in episodes] == pytest.approx([e.final / 100 for e in episodes])
        return
    whole = [all(turn.reply.think for turn in e.turns) for e in episodes]
    assert {True, False} == set(whole), "the check needs dialogues of both kinds"
    for episode, fine in zip(episodes, whole, strict=True):
        assert episode.final > 0
        assert episode.score.value == pytest.approx(fine * episode.final / 100)


def test_the_outcome_comes_last_and_every_token_answers_for_all_of_it(seen, algorithm):
    """With gamma = lambda = 1 a token's return is the reward, whatever the critic thinks."""
    for number, batch in enumerate(seen.rollouts):
        rewards = torch.tensor([r.reward for r in batch])
        found = seen.advantages[number]
        if algorithm == "grpo":
            groups = rewards.view(-1, 4)
            assert {len({r.episode.seed for r in batch[at : at + 4]}) for at in (0, 4)} == {1}
            wanted = groups - groups.mean(1, keepdim=True)
            wanted /= groups.std(1, keepdim=True) + 1e-4
            assert torch.allclose(found, wanted.view(-1), atol=1e-3)
            continue
        assert len({r.episode.seed for r in batch}) == 8, "each dialogue is played once"
        for row, rollout in enumerate(batch):
            own = torch.tensor(rollout.mask, dtype=torch.bool)
            returns = seen.returns[number][row, : len(own)]
            assert torch.allclose(returns[own], rewards[row].expand(int(own.sum())), atol=1e-5)
            assert not found[row, : len(own)][~own].any()


def flat(model):
    """The gradient of a model."""
    return torch.cat([p.grad.flatten() for p in model.parameters()])


class Probe:
    """The loss of the last micro-batch of a run, with other values of some inputs."""

    def __init__(self, seen):
        self.trainer, self.inputs = seen.trainer, trimmed(seen.inputs)
        self.mask = (self.inputs["completion_mask"] * self.inputs["tool_mask"]).bool()
        self.rows = len(self.mask)

    def tokens(self):
        """Log-probability and entropy of the sampled tokens, as the loss sees them."""
        both = (
            torch.cat([self.inputs[f"{part}_{kind}"] for part in ("prompt", "completion")], 1)
            for kind in ("ids", "mask")
        )
        self.trainer._sampled = self.mask
        width = self.mask.shape[1]
        found = self.trainer._get_per_token_logps_and_entropies(self.trainer.model, *both, width)
        self.trainer._sampled = None
        return found[:2]

    def gradient(self, loss=None, **changes):
        """Of the trainer's loss, or of another one."""
        model = self.trainer.model
        model.zero_grad()
        if loss is None:
            loss = self.trainer._compute_loss(model, self.inputs | changes)
        loss.backward()
        return flat(model)


def test_a_ratio_beyond_the_clip_moves_nothing_but_the_bonus_for_entropy_does(seen):
    probe = Probe(seen)
    now = probe.tokens()[0].detach()

    def moved(ratio):
        praise = torch.ones(probe.rows)
        return probe.gradient(advantages=praise, old_per_token_logps=now - math.log(ratio))

    bonus = probe.gradient(advantages=torch.zeros(probe.rows))
    assert torch.allclose(moved(1.21), bonus, atol=1e-7), "clipped at 1.2"
    assert not torch.allclose(moved(1.19), bonus, atol=1e-4)
    mean = (probe.tokens()[1] * probe.mask).sum() / probe.mask.sum()
    assert torch.allclose(probe.gradient(-0.001 * mean), bonus, atol=1e-7)
    assert bonus.abs().max() > 1e-6


def test_the_whole_critic_learns_once_a_batch_and_no_value_moves_far(seen, algorithm):
    if algorithm == "grpo":
        assert not list(seen.config.run.out.rglob("critic*"))
        return
    learner = seen.trainer._learner
    begun = ppo.Critic.like(LanguageModel.load(seen.config.policy.spec[3:]).model, learns=True)
    pairs = zip(begun.named_parameters(), learner.critic.parameters(), strict=True)
    # A norm's weights of 1 are too coarse for so small a step.
    stood = {name for (name, old), new in pairs if old.dim() > 1 and torch.equal(old, new)}
    assert not stood
    assert len(learner.optimiser.state) == len(list(learner.critic.parameters()))
    assert {float(state["step"]) for state in learner.optimiser.state.values()} == {2}
    assert learner.optimiser.param_groups[0]["lr"] == pytest.approx(5e-6 * 3 / 51)
    part = seen.parts[0]
    values = seen.trainer._valued(part).detach()
    aims = torch.zeros(part.mask.shape).masked_scatter(part.mask, values + 1)

    def moved(far):
        part.values = values - far
        learner.critic.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(learner, "step", lambda most: None)
            seen.trainer._teach([part], aims)
        return flat(learner.critic)

    assert not moved(0.6).any(), "beyond 0.5 its loss is cut"
    assert moved(0.4).any()
