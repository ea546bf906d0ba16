"""How fast the chat client is: to its first paint, in a long session, to the seedling's first word.

    python benchmarks/chat_speed.py [--rounds 3]

Seconds of processor until the screen is at rest: what one idle core takes. Of the rounds each
figure is the least. Exits with 1 when one is over its bar.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path

import torch

from heartloop.chat.app import ChatApp
from heartloop.chat.cast import Cast
from heartloop.chat.desk import Desk, Settings
from heartloop.chat.entries import Entry, Mode, Setup
from heartloop.chat.store import Store
from heartloop.chat.transcript import Transcript
from heartloop.chat.widgets import Composer, Said, Sessions

BARS = {
    "start to first paint, no model loaded": 1.0,
    "first word of the seedling after sending": 0.5,
    "2,000 messages: open": 1.0,
    "2,000 messages: search": 0.1,
    "2,000 messages: jump to one found far back": 1.0,
    "2,000 messages: a page up": 0.5,
}
"""Most seconds of processor of each."""
MESSAGES = 2_000
Figures = dict[str, float]
_COMMAND = "import sys; from heartloop.cli import main; sys.exit(main(sys.argv[1:]))"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cast = Cast()
    cast.policy("seedling")
    found: list[Figures] = []
    for _ in range(rounds):
        figures = dict(zip(BARS, (painted(),), strict=False))
        for work in (first_word, long_session):
            with tempfile.TemporaryDirectory() as folder:
                figures |= at_screen(Path(folder), cast, work)
        found.append(figures)
    least = {name: min(figures[name] for figures in found) for name in BARS}
    for name, bar in BARS.items():
        print(f"| {name} | {least[name]:.4f} s | {bar} s |")
    return int(any(least[name] > bar for name, bar in BARS.items()))


def painted() -> float:
    """Seconds of processor until the client has painted its first screen in a real terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "chat", "neutral", "--folder", folder],
            stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(slave)
        seen = b""
        while b"computer program" not in seen:
            seen += os.read(master, 65536)
        with open(f"/proc/{child.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        child.kill()
        child.wait()
        os.close(master)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_screen(folder: Path, cast: Cast, work: Callable) -> Figures:
    """What some work at the client's screen measures."""
    store = Store(folder)
    desk = Desk(cast, store, Setup(mode=Mode.TALK, policies=("seedling",)), settings=Settings())
    if work is long_session:
        fill(store, desk.base)

    async def run() -> Figures:
        app = ChatApp(desk, desk.begin(Mode.TALK))
        async with app.run_test(size=(110, 40)) as pilot:
            await pilot.pause()
            return await work(app, pilot)

    try:
        return asyncio.run(run())
    finally:
        store.close()


def fill(store: Store, setup: Setup) -> None:
    number = store.begin("long", setup)
    for at in range(1, MESSAGES + 1):
        mine = at % 2 == 1
        text = f"I am sad, number {at}." if mine else f"**That** sounds hard ({at})."
        role, author = ("user", "you") if mine else ("assistant", "seedling")
        store.put(number, Entry(id=at, parent=at - 1 or None, role=role, author=author, text=text))


async def first_word(app: ChatApp, pilot) -> Figures:
    """From Enter to the first word of the reply on the screen; the model is loaded already."""
    app.query_one(Composer).load_text("I failed my exam.")
    began = time.process_time()
    await pilot.press("enter")
    while not any(said.entry.text for said in app.query(".assistant").results(Said)):
        await asyncio.sleep(0.002)
    taken = time.process_time() - began
    await pilot.press("escape")
    await app.workers.wait_for_complete()
    return {"first word of the seedling after sending": taken}


async def long_session(app: ChatApp, pilot) -> Figures:
    """Open a session, search all, go to what was found, and scroll on from there."""
    taken = {}

    async def timed(name: str, do: Callable) -> None:
        began = time.process_time()
        if (done := do()) is not None:
            await done
        await app.workers.wait_for_complete()
        for _ in range(3):
            await pilot.pause()
        taken[f"2,000 messages: {name}"] = time.process_time() - began

    def search() -> None:
        # Of a search the file is asked; what it costs to draw the list goes with typing.
        assert len(app.desk.store.search("number 1001.")) == 1

    await timed("open", lambda: app.do_open("1"))
    await timed("search", search)
    await timed("jump to one found far back",
                lambda: app.on_sessions_chosen(Sessions.Chosen(1, 123)))  # fmt: skip
    transcript = app.query_one(Transcript)
    before = transcript._first
    await timed("a page up", lambda: transcript._earlier())
    assert transcript._first < before
    return taken


if __name__ == "__main__":
    sys.exit(main())
