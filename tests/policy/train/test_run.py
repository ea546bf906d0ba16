"""A run fills its directory, refuses one in use, and does not depend on the number of actors."""

import io
import json
from functools import partial

import pytest
from rich.console import Console

from heartloop import config as settings
from heartloop.env.record import read
from heartloop.errors import ConfigError, InvalidInput, OutputRefused, UnknownName
from heartloop.policy.base import make_policy
from heartloop.policy.parallel import RayWorld
from heartloop.policy.train.run import claim, train
from heartloop.simusers.registry import make_user


def recipe(folder, out, **changes):
    tables = {
        "run": {"out": str(out)},
        "policy": {"spec": str(folder), "max_new_tokens": 8},
        "world": {"actors": 0},
        "grpo": {"steps": 2, "prompts_per_step": 2, "group": 3, "micro_batch": 6},
        "eval": {"number": 3, "batch": 2},
    }
    return settings.settings(tables, [f"{key}={value}" for key, value in changes.items()])


def run(config, **kinds):
    screen = io.StringIO()
    result = train(config, console=Console(file=screen, width=200), **kinds)
    return result, screen.getvalue()


def test_a_run_leaves_everything_that_a_reader_needs(folder, tmp_path):
    config = recipe(folder, tmp_path / "run")
    result, shown = run(config)
    out = result.folder
    assert settings.load(out / "config.json") == config
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert len(list(read(out / "episodes.jsonl"))) == 12
    policies = {when: {e.policy for _, e in read(out / f"eval-{when}.jsonl")}
                for when in ("before", "after")}  # fmt: skip
    assert policies == {"before": {"seedling@0"}, "after": {"seedling@2"}}
    assert result.test.before.episodes == 3
    assert result.sentences is None
    assert result.report == out / "report.html"
    assert make_policy(str(out)).name == str(out)
    assert (out / "train.log").exists()
    assert "step 2  reward" in shown
    assert "gain" in shown
    assert sorted(p.name for p in (out / "checkpoint-2").glob("*.safetensors")) == [
        "model.safetensors", "optimizer.safetensors",
    ]  # fmt: skip
    assert not [p for p in out.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".part")]


def test_the_number_of_actors_changes_no_episode(folder, tmp_path):
    pytest.importorskip("ray")
    files = ("episodes.jsonl", "eval-before.jsonl", "eval-after.jsonl")
    contents = []
    with RayWorld(partial(make_user, "embedded"), 1):  # one Ray, which all runs join
        for actors in (0, 1, 2, 4):
            config = recipe(folder, tmp_path / str(actors), **{"world.actors": actors})
            run(config)
            contents.append([(config.run.out / name).read_bytes() for name in files])
    assert all(content == contents[0] for content in contents)


def test_a_finished_run_is_refused_and_resuming_it_changes_nothing(folder, tmp_path):
    config = recipe(folder, tmp_path / "run", **{"grpo.steps": 1})
    run(config)
    names = ("episodes.jsonl", "eval-after.jsonl", "metrics.jsonl")
    before = [(config.run.out / name).read_bytes() for name in names]
    with pytest.raises(OutputRefused, match=r"exists already: choose another run\.out, or resume"):
        run(config)
    run(config, resume=True)
    assert [(config.run.out / name).read_bytes() for name in names] == before


def test_a_run_is_resumed_with_its_own_settings_only(folder, tmp_path):
    config = recipe(folder, tmp_path / "run")
    with pytest.raises(InvalidInput, match=r"no run to resume: expected config\.json"):
        claim(config, resume=True)
    claim(config, resume=False)
    claim(recipe(folder, tmp_path / "run", **{"world.actors": 3}), resume=True)
    other = recipe(folder, tmp_path / "run", **{"grpo.learning_rate": 1})
    with pytest.raises(ConfigError, match=r"begun with grpo\.learning_rate = 0\.0003, got 1\.0"):
        claim(other, resume=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"policy.spec": "silent"}, ConfigError, "'silent' cannot learn"),
        ({"policy.spec": "seedlin"}, UnknownName, "did you mean 'seedling'"),
        ({"world.user": "embeded"}, UnknownName, "did you mean 'embedded'"),
        ({"world.preset": "sage"}, UnknownName, "no preset called 'sage'"),
        ({"reward.spec": "finl"}, UnknownName, "did you mean 'final'"),
        ({"world.scenarios": "none.jsonl"}, InvalidInput, "none.jsonl"),
        ({"eval.scenarios": "train"}, ConfigError, "shares 3 scenarios with world.scenarios"),
        ({"eval.sentences": "none.jsonl"}, InvalidInput, "none.jsonl"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    folder, tmp_path, changes, error, message
):
    config = recipe(folder, tmp_path / "run", **changes)
    with pytest.raises(error, match=message) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not config.run.out.exists()


def test_a_directory_that_cannot_be_written_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="cannot write"):
        claim(recipe(folder, tmp_path / "file" / "run"), resume=False)
    with pytest.raises(OutputRefused, match="exists already"):
        claim(recipe(folder, tmp_path / "file"), resume=False)


def test_a_run_that_failed_names_no_result(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk on fire")

    monkeypatch.setattr("heartloop.policy.train.grpo.train_grpo", fail)
    config = recipe(folder, tmp_path / "run")
    with pytest.raises(OSError, match="disk on fire"):
        run(config)
    assert not (config.run.out / "report.html").exists()
    assert json.loads((config.run.out / "config.json").read_text())["grpo"]["steps"] == 2
