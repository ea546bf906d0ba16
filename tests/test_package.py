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
        "heartloop/chat/app.tcss",
        "heartloop/chat/care.toml",
        "heartloop/chat/likeness.bin",
        "heartloop/chat/risk.toml",
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


@pytest.mark.parametrize(
    ("path", "attributes"),
    [("heartloop/chat/likeness.bin", {"text": "unset"}),
     ("heartloop/policy/seedling/weights/model.safetensors", {"text": "unset"}),
     ("tests/chat/crisis.toml", {"text": "set", "eol": "lf"})],
)  # fmt: skip
def test_git_leaves_the_bytes_of_what_is_hashed_or_packed_as_they_are(path, attributes):
    command = ["git", "check-attr", *attributes, "--", path]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git repository")
    found = dict(line.split(": ")[1:] for line in done.stdout.splitlines())
    assert found == attributes


def test_the_shipped_weights_fit_in_12_megabytes():
    files = (ROOT / "heartloop/policy/seedling/weights").iterdir()
    assert sum(f.stat().st_size for f in files) <= 12_000_000
