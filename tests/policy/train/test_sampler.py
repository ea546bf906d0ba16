"""A sampler beside the policy says how likely its tokens were, and the trainer compares.

Here a second copy of the network stands for the engine; `tests/vllm` does the same with a real one.
"""

import copy
import json

import pytest
import torch

from heartloop import config as settings
from heartloop.errors import ConfigError, MissingExtra
from heartloop.policy.decode import noise, pick
from heartloop.policy.train import learner, sampler, smells
from heartloop.policy.train.sampler import weights
from heartloop.policy.train.trl_adapter import DialogueTrainer
from tests.policy.train.test_rl import recipe, train
from tests.policy.train.test_run import recipe as whole_recipe
from tests.policy.train.test_run import run


class Engine:
    """Draws with a copy of the network; `deaf` to every push but the first."""

    model = None
    deaf = False
    pushes = closed = 0

    def __init__(self, folder):
        assert (sampler.Path(folder) / "config.json").is_file()

    def close(self):
        Engine.closed += 1

    def push(self, found):
        Engine.pushes += 1
        if not (self.deaf and Engine.pushes > 1):
            missing, unknown = self.model.load_state_dict(dict(found), strict=False)
            assert not unknown and set(missing) <= {"lm_head.weight"}

    @torch.no_grad()
    def draw(self, contexts, seeds, limit, temperature, ends):
        return [
            self._row(list(context), noise([seed], limit)[0], temperature, ends)
            for context, seed in zip(contexts, seeds, strict=True)
        ]

    def _row(self, ids, draws, temperature, ends):
        said, chances = [], []
        for draw in draws:
            logits = self.model(torch.tensor([ids + said])).logits[:, -1]
            said.append(int(pick(logits, draw[None], temperature)))
            chances.append(float(torch.log_softmax(logits[0] / temperature, -1)[said[-1]]))
            if said[-1] in ends:
                break
        return said, chances


@pytest.fixture
def engine(speaker, monkeypatch):
    monkeypatch.setattr(Engine, "model", copy.deepcopy(speaker.model))
    monkeypatch.setattr(Engine, "pushes", 0)
    monkeypatch.setattr(Engine, "closed", 0)
    monkeypatch.setattr(Engine, "deaf", False)
    monkeypatch.setattr(sampler, "VllmSampler", Engine)
    with torch.no_grad():  # so that only a push can make them the policy's
        for weight in Engine.model.parameters():
            weight.zero_()
    return Engine


SMALL = {"rl.steps": 3, "rl.prompts_per_step": 2, "rl.group": 4, "rl.micro_batch": 4,
         "policy.temperature": 0.8}  # fmt: skip


def drawn(out):
    return [
        [t["reply"]["text"] for t in json.loads(line)["turns"]]
        for line in (out / "episodes.jsonl").open()
    ]


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_sampler_in_step_draws_what_the_policy_would_and_agrees_with_it(
    speaker, engine, tmp_path, algorithm
):
    start = copy.deepcopy(speaker)
    few = SMALL | {"rl.algorithm": algorithm, "rl.learning_rate": 1e-3}
    beside = train(recipe(**few, **{"rl.sampler": "vllm"}), speaker, tmp_path / "beside")
    alone = train(recipe(**few), start, tmp_path / "alone")
    assert drawn(tmp_path / "beside") == drawn(tmp_path / "alone")
    assert (engine.pushes, engine.closed) == (3, 1)
    for one, other in zip(beside, alone, strict=True):
        assert 0 <= one["logprob_gap"] < 1e-5
        assert "logprob_gap" not in other
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_a_sampler_whose_weights_stay_behind_raises_the_alarm(speaker, engine, tmp_path):
    engine.deaf = True
    many = SMALL | {"rl.steps": smells.WINDOW, "rl.sampler": "vllm", "rl.learning_rate": 0.05}
    rows = train(recipe(**many), speaker, tmp_path)
    assert rows[0]["logprob_gap"] < 1e-5 < 0.05 < rows[-1]["logprob_gap"]
    (warning,) = [text for text in smells.smells(rows) if "stale" in text]
    assert "sampler and trainer differ" in warning


def test_a_token_that_the_sampler_drew_too_often_weighs_less(speaker, engine, tmp_path):
    """Each token by the ratio of both chances; no ratio beyond 3."""
    engine.deaf, ratios = True, []
    lose = DialogueTrainer._compute_loss

    def seen(self, model, inputs):
        mask = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
        both = [inputs[k] for k in ("old_per_token_logps", "sampling_per_token_logps")]
        wanted = (both[0] - both[1]).exp().clamp(max=3)
        ratios.append((inputs["importance_sampling_ratio"][mask], wanted[mask]))
        return lose(self, model, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DialogueTrainer, "_compute_loss", seen)
        few = SMALL | {"rl.steps": 3, "rl.sampler": "vllm", "rl.learning_rate": 0.05}
        train(recipe(**few), speaker, tmp_path)
    for found, wanted in ratios:
        assert torch.allclose(found, wanted, atol=1e-5)
    assert max(float(found.max()) for found, _ in ratios) > 1.5


def test_adapters_are_added_into_the_weights_and_the_model_stays_as_it_is(folder):
    pytest.importorskip("peft")
    config = settings.settings({"policy": {"spec": str(folder), "lora": 3}})
    model = learner.load(config).model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    found = {name: weight.clone() for name, weight in weights(model)}
    assert all(torch.equal(before[n], w) for n, w in model.named_parameters())
    plain = model.merge_and_unload()
    assert found.keys() == {name for name, _ in plain.named_parameters()}
    for name, weight in plain.named_parameters():
        assert torch.allclose(found[name], weight, atol=1e-6), name
    moved = [n for n in found if not torch.equal(found[n], before.get(f"base_model.model.{n}",
             torch.zeros_like(found[n])))]  # fmt: skip
    assert any("q_proj" in name for name in moved)


def test_vllm_is_looked_for_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm.platforms", None)
    config = whole_recipe(folder, tmp_path / "run", **{"rl.sampler": "vllm"})
    with pytest.raises(MissingExtra, match=r"'vllm' extra: pip install 'heartloop\[vllm\]'"):
        run(config)
    assert not config.run.out.exists()


def test_one_engine_serves_one_process():
    with pytest.raises(ConfigError, match=r"rl\.sampler 'vllm' needs run\.workers = 1"):
        settings.settings({"rl": {"sampler": "vllm"}, "run": {"workers": 2}})
