"""A run on two workers is the run of one, and both hold the same model.

A minute or two: Ray Train needs some ten seconds to start its workers, four times.
"""

import io
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from safetensors.torch import load_file, save_model  # noqa: E402

from heartloop import config as settings  # noqa: E402
from heartloop.cli import main  # noqa: E402
from heartloop.errors import ConfigError, OutputRefused  # noqa: E402
from heartloop.policy.parallel import find_ray, join_or_start  # noqa: E402
from heartloop.policy.train import checkpoint, learner, run  # noqa: E402
from heartloop.policy.workers import run_workers  # noqa: E402

TABLES = {
    "policy": {"max_new_tokens": 8},
    "world": {"actors": 1},
    "warmup": {"steps": 2, "people": 6, "dialogues": 4, "micro_batch": 2, "least": -1},
    "improve": {
        "steps": 1, "people": 2, "samples": 2, "dialogues": 2, "micro_batch": 2, "least": -1,
    },
    "rl": {"steps": 2, "prompts_per_step": 2, "group": 3, "micro_batch": 2},
    "eval": {"number": 3, "batch": 2},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all runs of this module."""
    folder = join_or_start(find_ray(), 2)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def recipe(folder, out, **changes):
    tables = TABLES | {"policy": TABLES["policy"] | {"spec": str(folder)}}
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return settings.settings(tables, [f"run.out={json.dumps(str(out))}", *overrides])


def train(config, **kinds):
    screen = io.StringIO()
    run.train(config, console=Console(file=screen, width=200), **kinds)
    return screen.getvalue()


def near(one, other, begun):
    """Whether two models differ by little of what they have learnt."""
    first, second, old = map(load_file, (one, other, begun))
    off = sum(((weight - second[key]) ** 2).sum() for key, weight in first.items())
    moved = sum(((weight - old[key]) ** 2).sum() for key, weight in first.items())
    assert moved > 0
    return off < 1e-4 * moved


def rows(folder):
    return list(map(json.loads, (folder / "metrics.jsonl").open()))


def lasting(path):
    """What a file holds, seconds aside."""
    if path.name != "metrics.jsonl":
        return path.read_bytes()
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows(path.parent)]


def test_all_stages_on_two_workers_are_those_of_one(folder, tmp_path):
    stages = {"run.stages": ["warmup", "improve", "rl"]}
    alone, together = tmp_path / "alone", tmp_path / "together"
    train(recipe(folder, alone, **stages))
    shown = train(recipe(folder, together, **stages, **{"run.workers": 2}))
    names = sorted(p.name for p in alone.iterdir())
    assert sorted(p.name for p in together.iterdir()) == names
    dialogues = [n for n in names if n.endswith(".jsonl") and n != "metrics.jsonl"]
    assert {"episodes.jsonl", "eval-after.jsonl", "improve-2-1.jsonl"} < set(dialogues)
    for name in dialogues:
        assert (alone / name).read_bytes() == (together / name).read_bytes(), name
    assert len(rows(alone)) == len(rows(together)) == 5
    for one, other in zip(rows(alone), rows(together), strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() & {"step", "stage", "reward", "dialogues", "tokens", "emotion"}:
            assert one[key] == other[key]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-5)
    weights = "checkpoint-5/model.safetensors"
    assert near(alone / weights, together / weights, folder / "model.safetensors")
    assert "step 5  reward" in shown


def keep(given):
    """A worker's part of a run; then each worker writes down the model that it holds."""
    held, load = [], learner.load
    learner.load = lambda *wanted: held.append(load(*wanted)) or held[-1]
    run._join(given)
    save_model(held[-1].model, str(given[0].run.out / f"rank-{os.environ['RANK']}.safetensors"))


def test_a_critic_learns_on_two_workers_and_goes_on_after_a_stop(folder, tmp_path):
    changes = {"rl.algorithm": "ppo", "run.save_every": 1, "run.keep": 2}
    alone, out = tmp_path / "alone", tmp_path / "together"
    # A loss is a mean of means over backward passes: let these be of the same dialogues.
    train(recipe(folder, alone, **changes, **{"rl.micro_batch": 1}))
    config = recipe(folder, out, **changes, **{"run.workers": 2})
    run_workers(keep, (config, False, Path.cwd()), 2)
    first, second = (load_file(out / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    for name in ("model", "critic"):
        found, begun = f"checkpoint-2/{name}.safetensors", f"checkpoint-1/{name}.safetensors"
        assert near(alone / found, out / found, alone / begun)
    for one, other in zip(rows(alone), rows(out), strict=True):
        assert one["value_loss"] == pytest.approx(other["value_loss"], rel=1e-3)
    files = [f"checkpoint-2/{name}.safetensors" for name in ("model", "critic", "optimizer")]
    files += ["metrics.jsonl", "episodes.jsonl", "eval-after.jsonl"]
    whole = {name: lasting(out / name) for name in files}
    shutil.rmtree(out / "checkpoint-2")
    (out / "eval-after.jsonl").unlink()
    train(config, resume=True)
    assert {name: lasting(out / name) for name in files} == whole
    with pytest.raises(OutputRefused, match="exists already"):
        train(config)


def kill_a_worker(out, killed):
    """Once there is a checkpoint, end a process that trains; note what there was to lose."""
    pids = awaited(training)  # known before there is anything to lose, so that none is too late
    found = awaited(lambda: checkpoint.numbered(out))
    os.kill(pids[-1], signal.SIGKILL)
    killed += [len(pids), [path.name for path in found]]


def training():
    """The processes that train, once there are two."""
    if not ray.is_initialized():
        return []
    actors = ray._private.state.actors().values()
    pids = [a["Pid"] for a in actors if "TrainWorker" in a["ActorClassName"]
            and a["State"] == "ALIVE"]  # fmt: skip
    return pids if len(pids) == 2 else []


def awaited(look):
    """What there is to see, as soon as there is anything."""
    end = time.monotonic() + 500
    while not (found := look()):
        assert time.monotonic() < end, "the run never came so far"
        time.sleep(0.01)
    return found


def test_a_run_that_loses_a_worker_fails_and_goes_on_from_its_last_checkpoint(
    folder, tmp_path, capsys
):
    out, path, killed = tmp_path / "run", tmp_path / "recipe.json", []
    config = recipe(folder, out, **{"run.workers": 2, "run.save_every": 1, "rl.steps": 6,
                                    "run.keep": 9})  # fmt: skip
    path.write_text(config.model_dump_json())
    killer = threading.Thread(target=kill_a_worker, args=(out, killed), daemon=True)
    killer.start()
    assert main(["train", str(path)]) == 1
    killer.join(60)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"^heartloop: worker [01] died: its process was ended from outside", error)
    workers, written = killed
    assert workers == 2 and len(written) < 6
    left = [path.name for path in checkpoint.numbered(out)]
    assert set(written) <= set(left)
    for name in left:
        assert checkpoint.read_state(out / name)["total"] == int(name.rpartition("-")[2])
    assert not (out / "eval-after.jsonl").exists()
    assert main(["train", str(path), "--resume"]) == 0
    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4, 5, 6]
    assert (out / "checkpoint-6" / "model.safetensors").is_file()


def test_batches_that_cannot_be_shared_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"workers must divide rl\.prompts_per_step = 2, got 3"):
        recipe("seedling", tmp_path, **{"run.workers": 3, "rl.micro_batch": 6})
    with pytest.raises(ConfigError, match=r"run\.workers must divide rl\.micro_batch = 1, got 2"):
        recipe("seedling", tmp_path, **{"run.workers": 2, "rl.micro_batch": 1})
    with pytest.raises(ConfigError, match=r"must divide half of rl\.prompts_per_step = 1, got 2"):
        recipe(
            "seedling", tmp_path, **{"run.workers": 2, "rl.group": 1, "rl.algorithm": "ppo"}
        )  # fmt: skip
    with pytest.raises(ConfigError, match=r"must divide warmup\.micro_batch = 2, got 4"):
        recipe("seedling", tmp_path, **{"run.workers": 4, "run.stages": ["warmup"]})
