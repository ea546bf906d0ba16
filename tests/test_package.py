"""What a wheel and the repository must contain."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return archive.namelist()


@pytest.mark.parametrize(
    "name",
    [
        "heartloop/env/dialogue.py",
        "heartloop/py.typed",
        "heartloop/data/emotion.toml",
        "heartloop/simusers/appraisal.toml",
        "heartloop/simusers/lexicon/en.toml",
        "heartloop/simusers/grammar/en.toml",
        "heartloop/simusers/scenarios/train.jsonl",
        "heartloop/simusers/scenarios/test.jsonl",
        "heartloop/policy/seedling/weights/model.safetensors",
    ],
)
def test_the_wheel_holds_code_and_data(wheel, name):
    assert name in wheel


def test_the_wheel_holds_nothing_else_at_its_root(wheel):
    assert {n.split("/")[0].split("-")[0] for n in wheel} == {"heartloop"}


def test_git_tracks_the_env_room():
    command = ["git", "check-ignore", "--no-index", "heartloop/env/dialogue.py"]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 1


def test_the_shipped_weights_fit_in_12_megabytes():
    files = (ROOT / "heartloop/policy/seedling/weights").iterdir()
    assert sum(f.stat().st_size for f in files) <= 12_000_000
