"""Screens over the screen: what can be done here, and a search for an earlier prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Markdown
from textual.widgets.option_list import Option

from heartloop.chat.recall import ranked
from heartloop.chat.widgets import Finder
from heartloop.policy.evals.show import plain

_MOST = 100
_SHOWN = 200


class Help(ModalScreen[None]):
    """What can be done here."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,f1", "dismiss", "Close")]

    def __init__(self, text: str) -> None:
        """Show a text in Markdown."""
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """The text in a frame."""
        with VerticalScroll(id="help"):
            yield Markdown(self._text, open_links=False)


class Prompts(ModalScreen[str | None]):
    """Earlier prompts under a search; gives the one that was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close"),
        Binding("ctrl+r", "older", "Older", priority=True),
    ]

    def __init__(self, prompts: Sequence[str], query: str = "") -> None:
        """Search these, newest first."""
        super().__init__()
        self._prompts, self._query = prompts, query
        self._found: list[str] = []

    def compose(self) -> ComposeResult:
        """A search over a list."""
        yield Finder("search earlier prompts", self._query, id="prompts")

    def on_mount(self) -> None:
        """All of them at first."""
        self._show(self._query)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search while one types."""
        event.stop()
        self._show(event.value)

    def _show(self, query: str) -> None:
        self._found = ranked(query, self._prompts)[:_MOST]
        self.query_one(Finder).fill([Option(Text(_line(t), no_wrap=True)) for t in self._found])

    def action_older(self) -> None:
        """To the next one."""
        self.query_one(Finder).action_move("down")

    def on_finder_taken(self, event: Finder.Taken) -> None:
        """Give the one that was taken."""
        event.stop()
        self.dismiss(self._found[event.place])


def _line(text: str) -> str:
    return plain(" ".join(text.split())[:_SHOWN])
