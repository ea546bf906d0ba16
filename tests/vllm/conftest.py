"""One tiny model for all checks, one server that serves it, and one engine in this process."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from heartloop.llm import ChatModel, make_model
from tests.vllm.tiny import CONTEXT, build

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""For a small machine without a network; more threads than idle cores would wait for each other."""
STARTING = 400
"""Most seconds until the server answers; a busy machine needs a few minutes."""


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """Skip where there is no vLLM for the CPU; else set it up before anything imports it."""
    if not find_spec("vllm"):
        pytest.skip("vLLM is not installed here: run make test-vllm")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        from vllm.platforms import current_platform

        if current_platform.device_type != "cpu":
            pytest.skip("equal texts are promised in float32 on a CPU: run make test-vllm")
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny model lies."""
    place = tmp_path_factory.mktemp("tiny")
    build(place)
    return place


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[str]:
    """Base address of a vLLM server that serves the tiny model as "tiny"."""
    port = _free_port()
    log = folder.parent / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(_command(folder, port), stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def served(server: str) -> ChatModel:
    """The tiny model behind the server."""
    return make_model(f"openai:tiny@{server}?timeout=120")


@pytest.fixture(scope="session")
def inside(folder: Path) -> ChatModel:
    """The tiny model in an engine of this process."""
    return make_model(f"vllm:{folder}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _command(folder: Path, port: int) -> list[str]:
    # The CPU build has no working `vllm` command.
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", "tiny"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", str(CONTEXT), "--enforce-eager"),
        "--structured-outputs-config",
        '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    """Return when the server answers; fail with the end of its log when it will not."""
    end = time.monotonic() + STARTING
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    said = log.read_text("utf-8", "replace")[-3000:]
    pytest.fail(f"no vLLM server within {STARTING} s (exit code {process.poll()}):\n{said}")
