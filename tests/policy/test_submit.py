"""A run as a job of a real Ray head: its log, its results, its exit code, and what is refused."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from heartloop import cli, config
from heartloop.errors import ConfigError, InvalidInput
from heartloop.policy.submit import check_address, entrypoint
from tests.paths import ROOT

BIN = Path(sys.executable).parent
SMALL = """
[policy]
spec = "seedling"
max_new_tokens = 8
[rl]
steps = 1
prompts_per_step = 2
group = 2
micro_batch = 4
[eval]
number = 2
"""
TOKEN = "of-the-tests-" + "0" * 32


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Head:
    """A Ray head of its own, in a home of its own."""

    def __init__(self, home):
        self.temp = tempfile.mkdtemp(prefix="hl-", dir="/tmp")
        self.address = f"http://127.0.0.1:{free_port()}"
        self.log = home / "head.log"
        self.environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        words = [
            BIN / "ray", "start", "--head", "--block", f"--port={free_port()}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.address.rpartition(':')[2]}",
            "--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats",
            f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={self.temp}",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                words, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self):
        end = time.monotonic() + 240
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/api/version", timeout=5)
            except urllib.error.HTTPError as answer:
                assert answer.code == 401  # without the token
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def run(self, words, folder, **more):
        """A command of a user of this head, in a folder."""
        environment = self.environment | {"RAY_API_SERVER_ADDRESS": self.address} | more
        return subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=500
        )

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        shutil.rmtree(self.temp, ignore_errors=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    one = Head(tmp_path_factory.mktemp("home"))
    try:
        one.wait()
        yield one
    finally:
        one.close()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


def documented():
    """The job that docs/ray.md has a reader submit."""
    text = (ROOT / "docs" / "ray.md").read_text("utf-8")
    return re.search(r"^ray job submit .*$", text, re.M)[0]


def test_a_job_as_documented_trains_to_the_end(head, folder):
    words = documented().replace("configs/seedling.toml", "small.toml")
    assert "--working-dir . -- heartloop train small.toml" in words
    out = folder / "kept"
    words = words.replace('"$PWD/runs/first"', shlex.quote(str(out)))
    ended = head.run(shlex.split(words), folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert config.load(out / "config.json").rl.steps == 1
    assert (out / "metrics.jsonl").read_text().count("\n") == 1
    assert (out / "eval-after.jsonl").read_text().count("\n") == 2


def test_submit_follows_a_run_to_its_results_and_passes_on_a_failure(head, folder):
    (folder / "own.py").write_text("def warm(episode):\n    return len(episode.turns) / 100\n")
    words = [BIN / "heartloop", "submit", "small.toml", "--out", "mine"]
    words += ["--set", "rl.group=4", "--set", "reward.spec=own:warm"]
    ended = head.run(words, folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^heartloop: job raysubmit_\w+$", ended.stderr, re.M)
    assert "step 1" in ended.stdout
    out = folder / "mine"
    assert config.load(out / "config.json").rl.group == 4
    assert (out / "metrics.jsonl").read_text().count("\n") == 1
    again = head.run(words, folder)
    assert again.returncode == 2
    assert f"{out} exists already" in again.stdout


def test_ctrl_c_stops_the_job_and_says_so(head, folder):
    words = [BIN / "heartloop", "submit", "small.toml", "--set", "rl.steps=500", "--out", "long"]
    environment = head.environment | {"RAY_API_SERVER_ADDRESS": head.address}
    following = subprocess.Popen(
        words, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    end = time.monotonic() + 300
    while not (begun := (folder / "long" / "config.json").exists()) and time.monotonic() < end:
        time.sleep(0.2)
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=240)
    assert begun, said
    assert following.returncode == 130, said
    job = re.search(r"^heartloop: stopped job (raysubmit_\w+)$", said, re.M)[1]
    status = head.run([BIN / "ray", "job", "status", job], folder)
    assert f"'{job}' was stopped" in status.stdout + status.stderr


def test_a_wrong_token_is_named_in_a_line(head, folder):
    words = [BIN / "heartloop", "submit", "small.toml", "--no-wait"]
    for other in ({"RAY_AUTH_TOKEN": "another" * 6}, {"RAY_AUTH_MODE": "disabled"}):
        ended = head.run(words, folder, **other)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "wants another token: set RAY_AUTH_MODE" in ended.stderr.splitlines()[-1]


def test_no_head_and_no_settings_are_named_in_a_line(capsys, folder, monkeypatch):
    monkeypatch.chdir(folder)
    nobody = f"http://127.0.0.1:{free_port()}"
    assert cli.main(["submit", "small.toml", "--address", nobody]) == 2
    assert f"no Ray head answers at {nobody}" in capsys.readouterr().err
    assert cli.main(["submit", "none.toml", "--address", nobody]) == 2
    assert (
        capsys.readouterr().err == "heartloop: cannot read none.toml: No such file or directory\n"
    )


def test_the_command_is_checked_here_and_writes_to_an_absolute_path(folder):
    words = shlex.split(entrypoint(folder / "small.toml", ["rl.steps=3"], None, folder))
    assert words == [
        "heartloop", "train", "small.toml", "--set", "rl.steps=3",
        "--out", str(folder / "runs" / "seedling"),
    ]  # fmt: skip
    assert shlex.split(entrypoint(folder / "small.toml", [], Path("/x y"), folder))[-1] == "/x y"
    again = entrypoint(folder / "small.toml", [], None, folder, resume=True)
    assert shlex.split(again)[-1] == "--resume"
    with pytest.raises(ConfigError, match=r"rl\.steps"):
        entrypoint(folder / "small.toml", ["rl.stepz=3"], None, folder)
    (folder / "inner").mkdir()
    with pytest.raises(InvalidInput, match="submit from its folder"):
        entrypoint(folder / "small.toml", [], None, folder / "inner")


def test_another_machine_needs_a_token_or_leave(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for here in ("http://127.0.0.1:8265", "https://localhost:1", "http://[::1]:8265"):
        check_address(here, insecure=False)
    far = "http://10.0.0.7:8265"
    with pytest.raises(InvalidInput, match=r"10\.0\.0\.7 is another machine and no token is sent"):
        check_address(far, insecure=False)
    check_address(far, insecure=True)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with pytest.raises(InvalidInput, match="no token is sent"):
        check_address(far, insecure=False)  # Ray sends it in token mode only
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_address(far, insecure=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with pytest.raises(InvalidInput, match="no token is sent"):
        check_address(far, insecure=False)
    for odd in ("10.0.0.7:8265", "ray://10.0.0.7:10001", "auto"):
        with pytest.raises(InvalidInput, match="expected an address like"):
            check_address(odd, insecure=True)


def test_the_environment_does_not_overrule_the_address_that_was_checked(folder, monkeypatch):
    from heartloop.policy.submit import Job

    elsewhere, meant = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", elsewhere)
    with pytest.raises(InvalidInput) as refused:
        Job(meant, "true", folder)
    assert meant in str(refused.value.__cause__)
    assert os.environ["RAY_API_SERVER_ADDRESS"] == elsewhere
