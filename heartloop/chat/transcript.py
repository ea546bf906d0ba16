"""The messages of a session on the screen; only those near what is in view are laid out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from textual.containers import Horizontal, VerticalScroll
from textual.widget import Widget

from heartloop.chat.widgets import Said

PAGE = 10
"""Rows that are laid out at a time, when one scrolls up or down to them."""
_MOST = 40
"""Rows that stay laid out, unless the terminal is so tall that it shows more."""

MakeRow = Callable[[], Sequence[Said]]
"""Makes a row: one message, or several side by side."""


class Transcript(VerticalScroll):
    """A window over rows; it moves as one scrolls, and stays at the end while that is in view."""

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__(id="transcript")
        self._rows: list[MakeRow] = []
        self._first = self._last = 0
        self._moving = asyncio.Lock()

    async def lay_out(self, rows: Sequence[MakeRow], at: int | None = None) -> None:
        """Show these rows instead; each is made when it is laid out.

        Args:
            rows: All of them.
            at: Place of the row to bring into view; by default the end is.
        """
        async with self._moving:
            self._rows = list(rows)
            await self._show(at)

    async def add(self, make: MakeRow) -> None:
        """One more row at the end; laid out at once where the window reaches to the end."""
        async with self._moving:
            self._rows.append(make)
            if self._last < len(self._rows) - 1:
                return
            self._last += 1
            await self.mount(_beside(make()))
            if self.is_vertical_scroll_end:
                await self._forget_above()

    async def to_end(self) -> None:
        """Bring the end into view, and keep it there."""
        async with self._moving:
            if self._last < len(self._rows):
                await self._show(None)
            else:
                self.anchor()

    async def _show(self, at: int | None) -> None:
        size = max(2 * PAGE, self.app.size.height // 2)
        self._last = len(self._rows) if at is None else min(len(self._rows), at + size // 2)
        self._first = max(0, self._last - size)
        async with self.batch():
            await self.remove_children()
            await self.mount_all(_beside(make()) for make in self._rows[self._first : self._last])
        self.anchor(at is None)
        if at is not None:
            self.call_after_refresh(self._settle, self.children[at - self._first], above=True)

    def watch_scroll_y(self, old: float, new: float) -> None:
        """Lay out what comes next when the top or the bottom is reached."""
        super().watch_scroll_y(old, new)
        if self._moving.locked():
            return
        if new <= 0 < old and self._first:
            self.call_later(self._earlier)
        elif old < new >= self.max_scroll_y and not self.is_anchored:
            self.call_later(self._later)

    async def _earlier(self) -> None:
        """Lay out the page before; what was in view stays in view."""
        async with self._moving:
            if not self._first:
                return
            top = self.children[0]
            start = max(0, self._first - PAGE)
            before, self._first = self._rows[start : self._first], start
            async with self.batch():
                await self.mount_all((_beside(make()) for make in before), before=0)
                await self._forget_below()
        self.call_after_refresh(self._settle, top, above=True)

    async def _later(self) -> None:
        """Lay out the page after; at the end of all, stay there."""
        async with self._moving:
            if self._last == len(self._rows):
                self.anchor()
                return
            bottom = self.children[-1]
            after = self._rows[self._last : self._last + PAGE]
            self._last += len(after)
            async with self.batch():
                await self.mount_all(_beside(make()) for make in after)
                await self._forget_above()
        self.call_after_refresh(self._settle, bottom)

    def _settle(self, row: Widget, *, above: bool = False) -> None:
        """Have a row stand at the bottom of the view, or at the top."""
        place = row.virtual_region_with_margin
        y = place.y if above else place.bottom - self.scrollable_content_region.height
        self.scroll_to(y=y, animate=False, immediate=True)

    @property
    def _most(self) -> int:
        return max(_MOST, self.app.size.height)

    async def _forget_above(self) -> None:
        """Take away rows above the window that are too many."""
        surplus = self.children[: max(0, len(self.children) - self._most)]
        self._first += len(surplus)
        await self.remove_children(surplus)

    async def _forget_below(self) -> None:
        """Take away rows below the window that are too many; the end is no longer kept in view."""
        surplus = self.children[self._most :]
        self._last -= len(surplus)
        if surplus:
            self.anchor(False)
        await self.remove_children(surplus)


def _beside(messages: Sequence[Said]) -> Said | Horizontal:
    return messages[0] if len(messages) == 1 else Horizontal(*messages, classes="beside")
