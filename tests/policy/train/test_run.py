"""A run fills its directory, refuses one in use, and does not depend on the number of actors."""

import io
import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from statistics import fmean

import pytest
from rich.console import Console
from safetensors.torch import load_file

from heartloop import config as settings
from heartloop.env.record import read
from heartloop.errors import ConfigError, InvalidInput, OutputRefused, UnknownName
from heartloop.policy.base import make_policy
from heartloop.policy.parallel import RayWorld
from heartloop.policy.train.run import claim, dry_run, train
from heartloop.simusers.registry import make_user


def recipe(folder, out, **changes):
    tables = {
        "run": {"out": str(out)},
        "policy": {"spec": str(folder), "max_new_tokens": 8},
        "world": {"actors": 0},
        "rl": {"steps": 2, "prompts_per_step": 2, "group": 3, "micro_batch": 6},
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
    config = recipe(folder, tmp_path / "run", **{"rl.steps": 1})
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
    other = recipe(folder, tmp_path / "run", **{"rl.learning_rate": 1})
    with pytest.raises(ConfigError, match=r"begun with rl\.learning_rate = 0\.0003, got 1\.0"):
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
        ({"policy.system": "none.txt"}, ConfigError, "policy.system: cannot read none.txt"),
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


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("heartloop.policy.train.run.find_spec", lambda name: None)
    config = recipe(folder, tmp_path / "run", **{"run.report_to": '["trackio"]'})
    with pytest.raises(ConfigError, match="trackio is not installed: pip install trackio"):
        train(config)
    assert not config.run.out.exists()


def test_a_tracker_shows_what_the_metrics_say_over_all_stages_and_after_a_stop(folder, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    few = {"run.stages": ["warmup", "rl"], "run.save_every": 1, "run.keep": 2, "warmup.steps": 1,
           "warmup.people": 2, "warmup.least": 0.0, "warmup.dialogues": 2,
           "warmup.micro_batch": 2, "run.report_to": ["tensorboard"]}  # fmt: skip
    config = recipe(folder, tmp_path / "run", **{k: json.dumps(v) for k, v in few.items()})
    out = run(config)[0].folder
    shutil.rmtree(out / "checkpoint-3")
    (out / "eval-after.jsonl").unlink()
    run(config, resume=True)
    rows = {row["step"]: row for row in timeless(out)}
    shown: dict[str, dict[int, float]] = {}
    for path in sorted(out.glob("runs/*")):
        events = accumulators.EventAccumulator(str(path)).Reload()
        for name in events.Tags()["scalars"]:
            own = shown.setdefault(name.removeprefix("train/"), {})
            own |= {event.step: event.value for event in events.Scalars(name)}
    assert {"loss", "reward", "entropy", "kept", "emotion"} < set(shown)
    for name, values in shown.items():
        if not name.startswith("seconds"):
            wanted = {n: row[name] for n, row in rows.items() if row.get(name) is not None}
            assert values == pytest.approx(wanted), name
    assert {n for values in shown.values() for n in values} == set(rows) == {1, 2, 3}
    (first, *_) = sorted(out.glob("runs/*"))
    texts = accumulators.EventAccumulator(str(first)).Reload()
    (event,) = texts.Tensors("args/text_summary")
    settings_ = json.loads(event.tensor_proto.string_val[0])
    assert settings_ == config.model_dump(mode="json")


def test_a_directory_that_cannot_be_written_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="cannot write"):
        claim(recipe(folder, tmp_path / "file" / "run"), resume=False)
    with pytest.raises(OutputRefused, match="exists already"):
        claim(recipe(folder, tmp_path / "file"), resume=False)


def test_a_run_that_failed_names_no_result(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk on fire")

    monkeypatch.setattr("heartloop.policy.train.rl.train_rl", fail)
    config = recipe(folder, tmp_path / "run")
    with pytest.raises(OSError, match="disk on fire"):
        run(config)
    assert not (config.run.out / "report.html").exists()
    assert json.loads((config.run.out / "config.json").read_text())["rl"]["steps"] == 2


STAGES = {
    "run.stages": ["warmup", "improve", "rl"], "run.save_every": 1, "warmup.steps": 2,
    "warmup.people": 4, "warmup.least": 0.0, "warmup.dialogues": 2, "warmup.micro_batch": 2,
    "improve.steps": 1, "improve.rounds": 2, "improve.people": 2, "improve.samples": 2,
    "improve.least": 0.0, "improve.dialogues": 2, "improve.micro_batch": 1,
    "rl.algorithm": "ppo", "reward.credit": "turn",
}  # fmt: skip


def timeless(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]


def test_the_stages_of_one_file_follow_each_other(folder, tmp_path):
    config = recipe(folder, tmp_path / "run", **{k: json.dumps(v) for k, v in STAGES.items()})
    out = run(config)[0].folder
    rows = timeless(out)
    assert [row["stage"] for row in rows] == ["warmup"] * 2 + ["improve"] * 2 + ["rl"] * 2
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    made = {p.name for p in out.glob("*.jsonl")}
    assert made == {
        "episodes.jsonl", "metrics.jsonl", "warmup-1.jsonl", "improve-2-1.jsonl",
        "improve-2-2.jsonl", "eval-before.jsonl", "eval-stage-1.jsonl", "eval-stage-2.jsonl",
        "eval-after.jsonl",
    }  # fmt: skip
    assert {p.name for p in out.glob("checkpoint-*")} == {"checkpoint-6"}
    assert {e.policy for _, e in read(out / "improve-2-2.jsonl")} == {"seedling@3"}
    assert {e.policy for _, e in read(out / "eval-after.jsonl")} == {"seedling@6"}


def test_a_run_killed_anywhere_goes_on_as_if_nothing_had_happened(folder, tmp_path):
    pairs = {k: json.dumps(v) for k, v in STAGES.items()}
    whole = recipe(folder, tmp_path / "whole", **pairs)
    run(whole)
    for step in (1, 2, 4, 5):
        config = recipe(folder, tmp_path / f"broken-{step}", **pairs)
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, config.model_dump_json(), str(step)], check=False
        )
        assert ended.returncode == -signal.SIGKILL
        run(config, resume=True)
        assert timeless(config.run.out) == timeless(whole.run.out)
        for name in ("episodes", "eval-before", "eval-stage-1", "eval-after", "improve-2-1"):
            name = f"{name}.jsonl"
            assert (config.run.out / name).read_bytes() == (whole.run.out / name).read_bytes()
        ended_at = [c.run.out / "checkpoint-6" for c in (whole, config)]
        for name in ("model", "optimizer", "critic", "critic_optimizer"):
            first, second = ((f / f"{name}.safetensors").read_bytes() for f in ended_at)
            assert first == second, name


KILLED = """
import json, os, signal, sys
from heartloop import config
from heartloop.policy.train import run, session
wrote = session.Session.learnt
def learnt(self, *rest):
    wrote(self, *rest)
    if self.state.total == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
session.Session.learnt = learnt
run.train(config.settings(json.loads(sys.argv[1])))
"""


def test_the_best_and_the_last_checkpoints_are_kept(folder, tmp_path):
    config = recipe(
        folder, tmp_path / "run", **{"rl.steps": 4, "eval.every": 1, "run.keep": 2}
    )  # fmt: skip
    out = run(config)[0].folder
    means = {
        step: fmean(e.final for _, e in read(out / f"eval-{step}.jsonl")) for step in (1, 2, 3, 4)
    }
    last = [(out / f"eval-{when}.jsonl").read_bytes() for when in ("4", "after")]
    assert last[0] == last[1], "not played twice"
    best = max(means, key=lambda step: (means[step], -step))
    kept = {p.name for p in out.glob("checkpoint-*")}
    assert kept == {f"checkpoint-{step}" for step in (3, 4, best)}
    state = json.loads((out / "checkpoint-4" / "state.json").read_text())
    assert state["best"] == f"checkpoint-{best}"


def test_a_dry_run_says_what_a_run_will_take_and_writes_nothing(folder, tmp_path):
    config = recipe(folder, tmp_path / "run", **{"rl.beta": 0.1, "rl.algorithm": "ppo"})
    found = dry_run(config)
    assert not config.run.out.exists()
    out = run(config)[0].folder
    made = [e for name in ("episodes", "eval-before", "eval-after")
            for _, e in read(out / f"{name}.jsonl")]  # fmt: skip
    assert found["dialogues to train on"] + found["dialogues to evaluate on"] == len(made) == 18
    assert found["replies at most"] == 18 * 8 >= sum(len(e.turns) for e in made)
    assert found["tokens sampled at most"] == 8 * found["replies at most"]
    assert found["calls for the users at most"] == 0
    parameters = sum(p.numel() for p in make_policy(str(folder)).model.model.parameters())
    # weights, gradients and two moments; the critic, which stands still or learns; the reference
    assert found["bytes without activations"] == 4 * parameters * (4 + 1 + 1)
    learns = {"rl.beta": 0.1, "rl.algorithm": "ppo", "ppo.learn_trunk": "true"}
    found = dry_run(recipe(folder, tmp_path / "other", **learns))
    assert found["bytes without activations"] == 4 * parameters * (4 + 4 + 1)
    with pytest.raises(OutputRefused, match="exists already"):
        dry_run(config)


def test_a_curriculum_plays_short_dialogues_first(folder, tmp_path):
    config = recipe(folder, tmp_path / "run", **{"rl.curriculum": 2})
    out = run(config)[0].folder
    turns = [len(e.turns) for _, e in read(out / "episodes.jsonl")]
    assert set(turns[:6]) == {1}
    assert max(turns[6:]) == 4


@pytest.mark.parametrize("rank", [0, 3])
def test_a_critics_trunk_is_written_once_and_found_again(folder, tmp_path, rank):
    pytest.importorskip("peft")
    stages = STAGES | {"run.stages": ["warmup", "rl"], "policy.lora": rank, "run.keep": 2}
    config = recipe(folder, tmp_path / "run", **{k: json.dumps(v) for k, v in stages.items()})
    out = run(config)[0].folder
    last = out / "checkpoint-4"
    assert {name.split(".")[0] for name in load_file(last / "critic.safetensors")} == {"head"}
    assert (last / "critic.safetensors").stat().st_size < (
        folder / "model.safetensors"
    ).stat().st_size
    whole = {path.name: path.read_bytes() for path in last.glob("*.safetensors")}
    shutil.rmtree(last)
    (out / "eval-after.jsonl").unlink()
    run(config, resume=True)
    assert {path.name: path.read_bytes() for path in last.glob("*.safetensors")} == whole
    shutil.rmtree(last)
    (out / "eval-after.jsonl").unlink()
    shutil.rmtree(out / "reference-1")
    with pytest.raises(InvalidInput, match="reference-1, the policy as it began, is gone"):
        run(config, resume=True)


def test_adapters_are_trained_saved_and_resumed(folder, tmp_path):
    pytest.importorskip("peft")
    small = {"policy.lora": 4, "run.save_every": 1, "policy.gradient_checkpointing": True}
    config = recipe(folder, tmp_path / "run", **small)
    out = run(config)[0].folder
    saved = {p.name for p in (out / "checkpoint-2").iterdir()}
    assert "adapter_model.safetensors" in saved
    assert "model.safetensors" not in saved
    (out / "eval-after.jsonl").unlink()
    run(config, resume=True)
    assert make_policy(str(out)).name == str(out)
