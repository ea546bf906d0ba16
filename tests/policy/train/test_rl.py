"""A policy learns what its users like; a run can be repeated, and resumed."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from heartloop import config as settings
from heartloop.env.play import LocalWorld
from heartloop.errors import TrainingFailure
from heartloop.policy.model import LanguageModel
from heartloop.policy.train import checkpoint, rl, trl_adapter
from heartloop.policy.train.session import Session
from heartloop.simusers.dynamics import Preset
from heartloop.types import Message, Reaction
from tests.fakes import ToyUser, toy_scenario

SCENARIOS = [toy_scenario(name, f"This is {name}.") for name in ("ann", "bea", "cleo")]
LIKED = set("abcdefghijklm")


class Speller(ToyUser):
    """Likes letters of the first half of the alphabet."""

    id = "speller/1"

    def __init__(self) -> None:
        super().__init__(Preset(name="short", turns=2, low=0, clamp=None))

    def react(self, history: Sequence[Message]) -> Reaction:
        letters = [c for c in history[-1].content.lower() if c.isalpha()] or ["z"]
        share = sum(c in LIKED for c in letters) / len(letters)
        return (
            super()
            .react(history)
            .model_copy(update={"emotion": round(100 * share, 2), "farewell": False})
        )


def recipe(**changes):
    tables = {
        "policy": {"max_new_tokens": 8},
        "reward": {"spec": "final"},
        "rl": {
            "steps": 12, "prompts_per_step": 4, "group": 8, "micro_batch": 32,
            "learning_rate": 3e-2, "warmup_steps": 0,
        },
    }  # fmt: skip
    return settings.settings(tables, [f"{key}={value}" for key, value in changes.items()])


def train(config, speaker, out, make=Speller, scenarios=SCENARIOS, listen=lambda row: None):
    out.mkdir(exist_ok=True)
    session = Session(config, speaker, out, listen)
    try:
        rl.train_rl(session, LocalWorld(make), scenarios)
    finally:
        session.close()
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_training_raises_the_reward(speaker, tmp_path):
    rows = train(recipe(**{"rl.steps": 26}), speaker, tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 27))
    first, last = (sum(r["reward"] for r in part) / 3 for part in (rows[:3], rows[-3:]))
    assert last > first + 0.25, f"reward {first:.2f} -> {last:.2f}"


def test_a_row_of_metrics_tells_what_was_played_and_learnt(speaker, tmp_path):
    row = train(recipe(**{"rl.steps": 1, "rl.beta": 0.01}), speaker, tmp_path)[0]
    assert row["dialogues"] == 32
    assert row["errored"] == 0
    assert row["turns"] == 2
    assert 0 < row["reply_tokens"] <= 8
    assert row["sampled_tokens"] < row["tokens"]
    assert row["kl"] == pytest.approx(0, abs=1e-6)
    assert row["entropy"] > 1
    assert row["grad_norm"] > 0
    parts = ("generation", "world", "driver", "learning")
    assert sum(row[f"seconds_{p}"] for p in parts) == pytest.approx(row["seconds"], abs=0.01)
    episodes = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert {json.loads(line)["policy"] for line in episodes} == {"seedling@0"}
    assert len(episodes) == 32


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_batch_that_is_learnt_from_again_is_clipped(speaker, tmp_path, algorithm):
    small = {"rl.prompts_per_step": 2, "rl.group": 4, "rl.micro_batch": 4, "rl.minibatches": 2}
    twice = {"rl.steps": 4, "rl.iterations": 2, "rl.algorithm": algorithm, "ppo.passes": 3}
    rows = train(recipe(**small, **twice), speaker, tmp_path)
    assert [row["clipped"] > 0 for row in rows] == [False, True, True, True]
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 8
    if algorithm == "ppo":
        moments = load_file(tmp_path / "checkpoint-4" / "critic_optimizer.safetensors")
        assert {float(v) for k, v in moments.items() if k.endswith(".step")} == {2 * 3}


def test_groups_share_scenario_and_user_and_come_in_order(speaker, tmp_path):
    train(recipe(**{"rl.steps": 2}), speaker, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").open()]
    groups = [lines[i : i + 8] for i in range(0, 64, 8)]
    keys = [{(e["scenario"]["id"], e["seed"]) for e in group} for group in groups]
    assert all(len(key) == 1 for key in keys)
    assert len(set.union(*keys)) == 8, "no user plays twice"
    assert {e["policy"] for e in lines[:32]} == {"seedling@0"}
    assert {e["policy"] for e in lines[32:]} == {"seedling@1"}


class Stopped(Exception):
    """Somebody pulled the plug."""


def pull_the_plug_after(step):
    def listen(row):
        if row["step"] == step:
            raise Stopped

    return listen


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(speaker, tokens, tmp_path, algorithm):
    small = {"rl.steps": 5, "rl.prompts_per_step": 2, "rl.group": 4, "rl.micro_batch": 4}
    config = recipe(
        **small,
        **{"run.save_every": 2, "rl.schedule": "linear", "rl.warmup_steps": 2,
           "rl.algorithm": algorithm, "reward.credit": "turn"},
    )  # fmt: skip
    (tmp_path / "start").mkdir()
    speaker.save(tmp_path / "start")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, LanguageModel.load(tmp_path / "start"), whole)
    with pytest.raises(Stopped):
        train(config, speaker, broken, listen=pull_the_plug_after(3))
    assert checkpoint.newest(broken) == broken / "checkpoint-2"
    rows = train(config, LanguageModel.load(broken / "checkpoint-2"), broken)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert (broken / "episodes.jsonl").read_bytes() == (whole / "episodes.jsonl").read_bytes()
    states = [
        LanguageModel.load(run / "checkpoint-5").model.state_dict() for run in (whole, broken)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    timeless = [
        [{k: v for k, v in json.loads(line).items() if not k.startswith("seconds")}
         for line in (run / "metrics.jsonl").open()]
        for run in (whole, broken)
    ]  # fmt: skip
    assert timeless[0] == timeless[1]
    assert [p.name for p in broken.glob("checkpoint-*")] == ["checkpoint-5"]


def test_several_steps_on_one_batch_play_it_once(speaker, tmp_path):
    config = recipe(**{"rl.steps": 4, "rl.iterations": 2})
    train(config, speaker, tmp_path)
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 64


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_token_weighs_the_same_however_many_dialogues_share_a_backward_pass(
    speaker, tmp_path, monkeypatch, algorithm
):
    found: list[torch.Tensor] = []

    def note(self, args, state, control, model=None, **_):
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))

    monkeypatch.setattr(trl_adapter._Watcher, "on_pre_optimizer_step", note, raising=False)
    steps = {"rl.steps": 2, "rl.prompts_per_step": 2, "rl.group": 4, "rl.minibatches": 2,
             "rl.learning_rate": 1e-9, "rl.max_grad_norm": 1e9, "policy.max_new_tokens": 24,
             "policy.temperature": 1.5}  # fmt: skip
    with torch.no_grad():  # some replies end at once, some never
        speaker.model.model.embed_tokens.weight[speaker.end_ids[0]] *= 3
    for loss, size in (("dapo", 4), ("dapo", 2), ("dapo", 1), ("bnpo", 2)):
        changes = {"rl.micro_batch": size, "rl.loss_type": loss, "rl.algorithm": algorithm}
        train(recipe(**steps, **changes), speaker, tmp_path / f"{loss}-{size}")
    whole, *others = (torch.cat(found[at : at + 2]) for at in range(0, 8, 2))
    off = [float((other - whole).norm() / whole.norm()) for other in others]
    assert max(off[:2]) < 1e-4
    assert off[2] > 1e-2, "means of means differ: the check has dialogues of unequal length"


def test_a_run_whose_dialogues_fail_stops_and_says_why(speaker, tmp_path):
    scenarios = [toy_scenario("ann"), toy_scenario("bad", opener="fail")]
    config = recipe(**{"rl.prompts_per_step": 2, "rl.micro_batch": 16})
    with pytest.raises(TrainingFailure, match=r"8 of 16 dialogues.*10%.*toy failed to open"):
        train(config, speaker, tmp_path, scenarios=scenarios)
    tolerant = recipe(
        **{"rl.prompts_per_step": 2, "rl.micro_batch": 16, "rl.steps": 1,
           "rl.max_errored": 0.5}
    )  # fmt: skip
    rows = train(tolerant, speaker, tmp_path / "on", scenarios=scenarios)
    assert rows[0]["errored"] == 0.5
    assert rows[0]["reward"] is not None


def test_prompts_of_a_longer_run_begin_like_those_of_a_shorter_one():
    short, long = (rl.prompts(recipe(**{"rl.steps": n}), 3) for n in (2, 9))
    assert long[: len(short)] == short
    assert len(set(long)) == len(long) == 36
    assert {json.loads(p)[0][0] for p in long[:3]} == {0, 1, 2}, "each scenario once a pass"


def test_the_rate_rises_and_falls():
    falling = recipe(**{"rl.steps": 4, "rl.warmup_steps": 1, "rl.schedule": "linear"}).rl
    assert [rl.schedule(step, falling) for step in range(4)] == [0.5, 0.75, 0.5, 0.25]
    assert rl.schedule(100, recipe().rl) == 1


def test_a_folder_without_state_is_no_checkpoint(tmp_path):
    assert checkpoint.newest(Path(tmp_path)) is None
    with pytest.raises(ValueError, match=r"no checkpoint: expected state\.json"):
        checkpoint.read_state(tmp_path)
