"""Pictures of the chat client in every mode, for docs/chat.md: python benchmarks/chat_tour.py.

The client is real and so are the policies and the simulated user; only the terminal is not.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from heartloop.chat.app import ChatApp
from heartloop.chat.cast import Cast
from heartloop.chat.desk import Desk, Settings
from heartloop.chat.entries import Mode, Setup
from heartloop.chat.store import Store
from heartloop.chat.widgets import Composer
from heartloop.env.play import Dialogue, play
from heartloop.policy.base import make_policy
from heartloop.rewards import reward
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack

Do = Callable[[ChatApp, "Callable[..., Awaitable[None]]"], Awaitable[None]]
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_IDS = re.compile(r"terminal-\d+")


async def talk(app, do) -> None:
    await do("I failed my exam and I feel so ashamed.")
    await do("My parents will be disappointed.")
    await do(key="f2")


async def helping(app, do) -> None:
    await do("You waited for that evening, and then you stood in the second row like a goldfish.")
    await do("What would you like him to understand?")
    await do(key="f2")


async def watch(app, do) -> None:
    await do(key="f5")
    await do(key="f5")


async def replay(app, do) -> None:
    await do(key="f2")


async def compare(app, do) -> None:
    await do("My best friend moved away, and I am lonely.")


async def care(app, do) -> None:
    await do("Everyone would be better off without me.")


async def concern(app, do) -> None:
    await do("My best friend says he'll kill himself tonight.")


async def sessions(app, do) -> None:
    await do("I failed my exam and I feel so ashamed.")
    await do("/search exam")


async def loop(app, do) -> None:
    await do("I failed my exam and I feel so ashamed.")
    await do(key="f4")


async def prompts(app, do) -> None:
    for text in ("My cat ran away.", "I failed my exam.", "It was the second exam this week."):
        await do(text)
    await do(key="ctrl+r")
    for key in "exm":
        await do(key=key)


async def commands(app, do) -> None:
    await do(key="f1")


SCENES = {
    "talk": (talk, Mode.TALK, (110, 32)),
    "help": (helping, Mode.HELP, (110, 32)),
    "watch": (watch, Mode.WATCH, (110, 36)),
    "replay": (replay, Mode.REPLAY, (110, 36)),
    "compare": (compare, Mode.COMPARE, (110, 24)),
    "care": (care, Mode.TALK, (100, 34)),
    "concern": (concern, Mode.TALK, (100, 38)),
    "search": (sessions, Mode.TALK, (110, 24)),
    "commands": (commands, Mode.TALK, (110, 44)),
    "loop": (loop, Mode.TALK, (110, 40)),
    "prompts": (prompts, Mode.TALK, (110, 30)),
    "narrow": (talk, Mode.TALK, (64, 34)),
}


def desk(folder: Path, policy: str) -> Desk:
    people = pack("test")
    base = Setup(mode=Mode.TALK, policies=(policy, "neutral"), scenario=people[0])
    dialogue = Dialogue(make_user("embedded"), people[0], 3)
    play(dialogue, make_policy("reflective"))
    played = [dialogue.episode("reflective", reward("final"))]
    return Desk(Cast(), Store(folder), base, people, played, Settings(region="us"))


async def picture(found: Desk, do: Do, mode: Mode, size: tuple[int, int]) -> str:
    app = ChatApp(found, found.begin(mode))
    async with app.run_test(size=size) as pilot:

        async def act(text: str = "", key: str = "") -> None:
            if text:
                app.query_one(Composer).load_text(text)
            await pilot.press(key or "enter")
            await rest()

        async def rest() -> None:
            await pilot.pause(0.1)
            await app.workers.wait_for_complete()
            await pilot.pause(0.3)

        await rest()
        await do(app, act)
        return app.export_screenshot(title=f"heartloop chat: {mode}")


def clean(svg: str, name: str) -> str:
    """Without fonts from the network, and the same at every run."""
    return _IDS.sub(f"chat-{name}", _FONTS.sub("", svg))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--policy", default="seedling")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, (do, mode, size) in SCENES.items():
        with tempfile.TemporaryDirectory() as folder:
            policy = f"heart@3:{chosen.policy}" if name == "loop" else chosen.policy
            found = desk(Path(folder), policy)
            svg = asyncio.run(picture(found, do, mode, size))
            found.store.close()
        path = chosen.out / f"chat-{name}.svg"
        path.write_text(clean(svg, name), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
