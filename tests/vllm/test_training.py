"""Checks of a real vLLM engine that draws the replies of a model in training."""

import copy
import io
import json
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

from heartloop import config as settings
from heartloop.errors import TrainingFailure
from heartloop.llm.vllm import VllmSampler
from heartloop.policy.model import LanguageModel
from heartloop.policy.train import learner
from heartloop.policy.train.run import train
from heartloop.policy.train.sampler import Sampler
from heartloop.policy.train.smells import WINDOW
from tests.policy.train.families import FAMILIES, build

pytestmark = pytest.mark.vllm

CLOSE = 1e-4
"""Most difference of a log-probability in float32, after two sums in another order."""
CONTEXTS = {0: list(range(5, 25)), 1: list(range(30, 90)), 2: [7, 9]}
SEEDS = {0: 1, 1: 2**62, 2: 3}


@pytest.fixture(scope="module", params=FAMILIES)
def place(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("family") / "model")


def recipe(place, out, **changes):
    tables = {
        "run": {"out": str(out)},
        "policy": {"spec": str(place), "max_new_tokens": 8, "temperature": 0.8},
        "world": {"actors": 0},
        "rl": {"steps": 2, "prompts_per_step": 2, "group": 3, "micro_batch": 3, "sampler": "vllm",
               "learning_rate": 0.01, "warmup_steps": 0},
        "eval": {"number": 1},
    }  # fmt: skip
    return settings.settings(tables, [f"{k}={json.dumps(v)}" for k, v in changes.items()])


def chances(speaker, context, said, temperature):
    """Log-probabilities of sampled tokens, as the trainer sees them."""
    with torch.no_grad():
        logits = speaker.model(torch.tensor([context + said])).logits[0, len(context) - 1 : -1]
    own = torch.log_softmax(logits / temperature, -1)
    return [float(own[at, token]) for at, token in enumerate(said)]


def check_in_step(sampler, speaker):
    """What the engine says of its tokens is what the model says; the tokens."""
    talk = sampler.talk()
    said = talk.reply(CONTEXTS, SEEDS)
    for number, ids in said.items():
        wanted = chances(speaker, CONTEXTS[number], ids, 0.8)
        assert talk.logprobs[number] == pytest.approx(wanted, abs=CLOSE)
    again = talk.reply({0: [11, 12], 2: [13]}, {0: 5, 2: 6})
    for number, ids in again.items():
        context = CONTEXTS[number] + said[number] + ([11, 12] if number == 0 else [13])
        wanted = chances(speaker, context, ids, 0.8)
        assert talk.logprobs[number] == pytest.approx(wanted, abs=CLOSE)
    return said


def test_after_a_push_the_engine_draws_with_the_new_weights(place, tmp_path):
    speaker = LanguageModel.load(place)
    with closing(Sampler(speaker, recipe(place, tmp_path))) as sampler:
        check_that_a_push_counts(sampler, speaker)


def check_that_a_push_counts(sampler, speaker):
    sampler.sync_weights()
    first = check_in_step(sampler, speaker)
    assert check_in_step(sampler, speaker) == first, "seeds repeat"
    with torch.no_grad():
        for weight in speaker.model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    stale = sampler.talk()
    ids = stale.reply(CONTEXTS, SEEDS)
    gaps = [
        abs(a - b)
        for n in ids
        for a, b in zip(stale.logprobs[n], chances(speaker, CONTEXTS[n], ids[n], 0.8), strict=True)
    ]
    assert max(gaps) > 100 * CLOSE, "without a push they differ"
    sampler.sync_weights()
    assert check_in_step(sampler, speaker) != first
    with pytest.raises(TrainingFailure, match=r"did not take 1 weights, such as 'model\.norm"):
        named = speaker.model.named_parameters()
        sampler._engine.push((n, w.data) for n, w in named if n != "model.norm.weight")


def test_an_adapted_model_is_drawn_from_with_its_adapters(place, tmp_path):
    pytest.importorskip("peft")
    config = recipe(place, tmp_path, **{"policy.lora": 4})
    speaker = learner.load(config)
    with torch.no_grad():
        for name, weight in speaker.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    with closing(Sampler(speaker, config)) as sampler:
        sampler.sync_weights()
        check_in_step(sampler, speaker)


def test_an_engine_that_is_closed_gives_its_memory_back(place, tmp_path):
    speaker, held = LanguageModel.load(place), []
    for _ in range(3):
        with closing(Sampler(speaker, recipe(place, tmp_path))) as sampler:
            sampler.sync_weights()
            sampler.talk().reply(CONTEXTS, SEEDS)
        held.append(psutil.Process().memory_info().rss)
    # Each of them keeps 1 GiB for keys and values.
    assert max(held) - held[0] < 2**29
    assert not Path(sampler._folder.name).exists()


def test_an_engine_that_is_closed_leaves_others_as_they_were(place, tmp_path):
    speaker = LanguageModel.load(place)
    with closing(Sampler(speaker, recipe(place, tmp_path))) as kept:
        kept.sync_weights()
        first = check_in_step(kept, speaker)
        Sampler(speaker, recipe(place, tmp_path)).close()
        assert check_in_step(kept, speaker) == first


def trained(config):
    train(config, console=Console(file=io.StringIO()))
    return [json.loads(line) for line in (config.run.out / "metrics.jsonl").open()]


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_run_trains_on_what_the_engine_draws(place, tmp_path, algorithm):
    changes = {"rl.algorithm": algorithm}
    rows = trained(recipe(place, tmp_path / "run", **changes))
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 <= row["logprob_gap"] < CLOSE for row in rows)
    again = trained(recipe(place, tmp_path / "again", **changes))
    assert [r["reward"] for r in again] == [r["reward"] for r in rows]
    names = [tmp_path / run / "episodes.jsonl" for run in ("run", "again")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_weights_that_stay_behind_raise_the_alarm(place, tmp_path, monkeypatch):
    push, first, pushes = VllmSampler.push, [], []

    def once(self, weights):
        if not first:
            first.extend((name, copy.deepcopy(weight)) for name, weight in weights)
        pushes.append(len(first))
        push(self, first)

    monkeypatch.setattr(VllmSampler, "push", once)
    config = recipe(place, tmp_path / "run", **{"rl.steps": WINDOW, "rl.learning_rate": 0.05})
    rows = trained(config)
    assert len(pushes) == WINDOW
    assert rows[0]["logprob_gap"] < CLOSE
    assert rows[-1]["logprob_gap"] > 0.05
    log = (config.run.out / "train.log").read_text()
    assert f"step {WINDOW}: sampler and trainer differ by" in log and "stale" in log
