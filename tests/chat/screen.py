"""An app on a screen of its own, and the text that its screenshots show."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import Awaitable, Callable

from heartloop.chat.app import ChatApp
from heartloop.chat.desk import Desk, Settings
from heartloop.chat.entries import Mode, Setup
from heartloop.chat.session import Session
from heartloop.chat.store import Store
from tests.chat.parts import Streamer, cast
from tests.fakes import ToyPolicy, toy_episode, toy_scenario

_CELL = re.compile(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', re.DOTALL)


class Screen:
    """What a test does at the terminal."""

    def __init__(self, app: ChatApp, pilot) -> None:
        self.app, self.pilot = app, pilot

    @property
    def session(self) -> Session:
        return self.app.session

    async def type(self, text: str) -> None:
        """Write and send."""
        self.app.query_one("#composer").load_text(text)
        await self.pilot.press("enter")
        await self.rest()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.rest()

    async def rest(self) -> None:
        """Wait until nobody speaks and all is drawn."""
        await self.pilot.pause()
        while self.app._busy:
            await asyncio.sleep(0.01)
        await self.pilot.pause()

    async def until(self, there: Callable[[], bool]) -> None:
        """Wait until something is there."""
        end = time.monotonic() + 20
        while not there():
            assert time.monotonic() < end, self.shown
            await self.pilot.pause(0.01)

    @property
    def shown(self) -> str:
        """The text on the screen, row by row."""
        rows: dict[float, list[tuple[float, str]]] = {}
        for x, y, text in _CELL.findall(self.app.export_screenshot()):
            rows.setdefault(float(y), []).append((float(x), html.unescape(text).strip("\n")))
        lines = ("".join(text for _, text in sorted(row)) for _, row in sorted(rows.items()))
        return "\n".join(lines).replace("\xa0", " ")


def at_screen(
    folder, do: Callable[[Screen], Awaitable[None]], mode: str = "talk", size=(110, 40), *,
    settings: Settings | None = None, store: Store | None = None, **players,
) -> None:  # fmt: skip
    """Start the app in a mode and let a test work at it."""
    players = {"toy": ToyPolicy(), "other": Streamer("From the other one."), **players}
    people = (toy_scenario(), toy_scenario("beta", "My cat ran away."))
    base = Setup(mode=Mode(mode), policies=("toy", "other"), user="toy", scenario=people[0])
    played = (toy_episode("One.", emotions=(45,)), toy_episode("Two."), toy_episode("Three."))
    kept = store or Store(folder)
    desk = Desk(cast(**players), kept, base, people, played, settings or Settings(region="us"))

    async def run() -> None:
        app = ChatApp(desk, desk.begin(Mode(mode)))
        async with app.run_test(size=size, notifications=True) as pilot:
            screen = Screen(app, pilot)
            await screen.rest()
            await do(screen)

    try:
        asyncio.run(run())
    finally:
        if store is None:
            kept.close()
