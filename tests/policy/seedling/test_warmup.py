import json
import re

import pytest

from heartloop.errors import ConfigError, InvalidInput, OutputRefused
from heartloop.policy.model import LanguageModel
from heartloop.policy.seedling import build, card, warmup
from heartloop.policy.seedling.measure import Facts
from tests.policy.seedling.tiny import SHAPE

torch = pytest.importorskip("torch")
PLAN = warmup.Plan(steps=12, batch=2, longest=160, ramp=3, save_every=5, echo=3, drill=3, crowd=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Train a network in miniature, with a tokenizer of few dialogues."""
    monkeypatch.setattr(build.network, "__defaults__", (SHAPE,))
    monkeypatch.setattr(warmup, "_TOKENIZER_DIALOGUES", 12)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_warmup_learns_logs_and_leaves_a_model_that_loads(tmp_path):
    rows = []
    out = warmup.warmup(tmp_path / "new", plan=PLAN, figures=0, report=rows.append)
    written = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in written] == [10, 12]
    assert rows == written
    assert rows[-1]["loss"] < 8.3
    model = LanguageModel.load(out)
    assert model.model.config.model_type == "qwen3"


def test_the_same_seed_trains_the_same_weights(tmp_path):
    one = warmup.warmup(tmp_path / "one", plan=PLAN, figures=0)
    two = warmup.warmup(tmp_path / "two", plan=PLAN, figures=0)
    assert same(weights(one), weights(two))


@pytest.fixture
def cut(tmp_path, monkeypatch):
    """A run that died in its eighth step, after a checkpoint at the fifth."""
    learn, calls = warmup._Run._learn, []

    def dies_at_eight(self, *args):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return learn(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(warmup._Run, "_learn", dies_at_eight)
        with pytest.raises(KeyboardInterrupt):
            warmup.warmup(tmp_path / "cut", plan=PLAN, figures=0)
    return tmp_path / "cut"


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, cut):
    whole = warmup.warmup(tmp_path / "whole", plan=PLAN, figures=0)
    resumed = warmup.warmup(cut, plan=PLAN, figures=0, resume=True)
    assert same(weights(whole), weights(resumed))


def test_resuming_with_other_settings_is_refused(cut):
    with pytest.raises(InvalidInput, match="other settings"):
        warmup.warmup(cut, seed=99, resume=True)


def test_a_token_budget_ends_the_run(tmp_path):
    rows = []
    warmup.warmup(tmp_path / "run", steps=500, batch=2, tokens=600, figures=0, report=rows.append)
    assert 600 <= rows[-1]["tokens"] < 2400


def test_the_card_tells_the_figures_of_the_run(tmp_path):
    out = warmup.warmup(tmp_path / "run", plan=PLAN, figures=3)
    text = (out / "README.md").read_text()
    facts = Facts.model_validate_json((out / "figures.json").read_text())
    assert f"{facts.loss} per" in text
    assert [f.dialogues for f in facts.figures] == [3] * 5
    assert f"| oracle | {facts.figures[-1].final} [" in text
    assert "heartloop warmup --out OUT --seed 7 --steps 12" in text
    assert not re.search(r"[{}]", text)
    assert {p.name for p in out.iterdir()} == {*card.PARTS, "metrics.jsonl"}


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputRefused, match="choose another folder"):
        warmup.warmup(tmp_path, plan=PLAN)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_resuming_from_nothing_names_what_is_missing(tmp_path):
    with pytest.raises(InvalidInput, match=r"state\.safetensors"):
        warmup.warmup(tmp_path, figures=0, resume=True)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": -1}])
def test_numbers_out_of_range_are_named(tmp_path, wrong):
    with pytest.raises(ConfigError, match="must be at least 1"):
        warmup.warmup(tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_rises_and_falls():
    rates = [warmup._schedule(step, step / 100, 10) for step in range(100)]
    assert rates[0] < rates[5] < rates[9]
    assert rates[99] < 0.06 < rates[50] < rates[12]
