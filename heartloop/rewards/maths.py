"""Equality of two mathematical expressions, decided in a process that can be ended.

Some expressions never finish: the process is given a time and a size, and is replaced once it has
overrun either.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Queue
from typing import IO, Any

from heartloop.errors import extra

SECONDS = 5.0
"""For one comparison."""
STARTING = 60.0
"""Seconds for the process to load its library."""
BYTES = 4 << 30
"""Address space of the process."""
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*\\?%")
"""The library takes 50 % for 50 and for 0.5 alike; here it is 0.5."""
_INDEX = re.compile(r"_\{\s*\\?[A-Za-z]{2,}\s*\}")
"""A word as an index, which it cannot read."""
_NAMED = re.compile(r"^(\$?)\s*[A-Za-z](?:_(?:\w|\{[^{}]*\}))?\s*=")
"""The name before a value, dropped where the other side gives none: it takes I for a number."""
_LOCK = threading.Lock()
_WORKERS: list[_Worker] = []


def equal(gold: str, answer: str, seconds: float = SECONDS) -> bool | None:
    """Whether two expressions in LaTeX or plain notation are equal; None where it stays open.

    Raises:
        MissingExtra: math-verify is not installed.
    """
    _check_installed()
    with _LOCK:
        worker = _WORKERS.pop() if _WORKERS else _Worker()
        found = worker.ask([gold, answer], seconds)
        if worker.alive:
            _WORKERS.append(worker)
    return found


def _check_installed() -> None:
    try:
        import math_verify  # noqa: F401
    except ImportError as cause:
        raise extra("loops", cause) from cause


class _Worker:
    """The process at the other end of two pipes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from heartloop.rewards.maths import serve; serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._receive(STARTING)

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def ask(self, pair: list[str], seconds: float) -> bool | None:
        """The verdict; None, and the end of the process, where it does not come in time."""
        with suppress(OSError):
            stdin: Any = self._process.stdin
            stdin.write(json.dumps(pair) + "\n")
            stdin.flush()
        found: bool | None = self._receive(seconds)
        return found

    def _receive(self, seconds: float) -> Any:
        try:
            line = self._lines.get(timeout=seconds)
        except Empty:
            line = ""
        if line:
            return json.loads(line)
        self._process.kill()
        self._process.wait()
        return None

    def _listen(self) -> None:
        stdout: IO[str] = self._process.stdout  # type: ignore[assignment]
        for line in stdout:
            self._lines.put(line)
        self._lines.put("")


def serve() -> None:
    """Compare the pairs that come in, one JSON list a line, until the input ends."""
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    _compared("1/2", "0.5")  # loads the library before the clock runs
    print(json.dumps(True), flush=True)
    for gold, answer in _pairs():
        print(json.dumps(_compared(gold, answer)), flush=True)


def _pairs() -> Iterator[tuple[str, str]]:
    for line in sys.stdin:
        gold, answer = json.loads(line)
        yield gold, answer


def _compared(gold: str, answer: str) -> bool | None:
    from math_verify import verify

    if ("=" in gold) != ("=" in answer):
        gold, answer = _NAMED.sub(r"\1", gold), _NAMED.sub(r"\1", answer)
    try:
        left, right = _parsed(gold), _parsed(answer)
        # An expression that was not understood comes back as text alone, or not at all.
        if not left or all(isinstance(part, str) for part in left):
            return None
        return bool(verify(left, right, timeout_seconds=None))
    except (Exception, MemoryError, RecursionError):
        return None


def _parsed(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    text = _PERCENT.sub(r"\1/100", _INDEX.sub("_m", text)).strip()
    marked = text if "$" in text or "\\boxed" in text else f"${text}$"
    found: list[Any] = parse(
        marked, [LatexExtractionConfig(), ExprExtractionConfig()], parsing_timeout=None
    )
    return found
