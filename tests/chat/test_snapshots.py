"""Whole screens, compared by their text with those kept in `snapshots/`.

After a change that is meant, delete the files and run the tests twice: the first run writes them
and fails.
"""

from pathlib import Path

import pytest

from tests.chat.screen import at_screen
from tests.fakes import ToyPolicy

KEPT = Path(__file__).parent / "snapshots"
SAYS = "<think>A hard day.</think> That sounds **hard**.\n\n1. Breathe.\n2. Tell me more."


async def talk(screen):
    await screen.type("I am so sad and a bit angry.")
    await screen.press("f2", "f3")


async def helping(screen):
    await screen.type("Tell me the whole story please")
    await screen.press("f2")


async def watch(screen):
    await screen.press("f5", "f5")


async def replay(screen):
    await screen.press("f2")


async def compare(screen):
    await screen.type("I am so sad.")


async def care(screen):
    await screen.type("I want to kill myself")


async def helped(screen):
    await screen.press("f1")


SCREENS = {
    "talk": (talk, "talk", (110, 36)), "talk-narrow": (talk, "talk", (60, 36)),
    "help": (helping, "help", (110, 30)), "watch": (watch, "watch", (110, 36)),
    "replay": (replay, "replay", (110, 24)), "compare": (compare, "compare", (110, 30)),
    "care": (care, "talk", (90, 40)), "commands": (helped, "talk", (110, 50)),
}  # fmt: skip


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_looks_as_it_did(name, tmp_path):
    do, mode, size = SCREENS[name]
    path = KEPT / f"{name}.txt"
    kept = path.read_text(encoding="utf-8") if path.exists() else None
    seen = []

    async def look(screen):
        await do(screen)
        for _ in range(100 if kept else 40):
            await screen.pilot.pause(0.05)
            seen.append(text_of(screen))
            if seen[-1] == kept:
                return

    at_screen(tmp_path, look, mode, size, toy=ToyPolicy(lambda _: SAYS))
    if kept is None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(seen[-1], encoding="utf-8")
        pytest.fail(f"{path.name} was not there and has been written: look at it, and run again")
    assert seen[-1] == kept


def text_of(screen):
    return "\n".join(line.rstrip() for line in screen.shown.split("\n")).strip() + "\n"
