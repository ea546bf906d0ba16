"""Screens over the screen: what can be done here, and a search for an earlier prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Markdown, OptionList
from textual.widgets.option_list import Option

from heartloop.chat.recall import ranked
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
        Binding("up", "move('up')", "Newer"),
        Binding("down,ctrl+r", "move('down')", "Older", priority=True),
    ]

    def __init__(self, prompts: Sequence[str], query: str = "") -> None:
        """Search these, newest first."""
        super().__init__()
        self._prompts, self._query = prompts, query
        self._found: list[str] = []

    def compose(self) -> ComposeResult:
        """A search over a list."""
        with Vertical(id="prompts"):
            yield Input(self._query, placeholder="search earlier prompts", id="sought")
            yield OptionList(id="recalled", markup=False)

    def on_mount(self) -> None:
        """All of them at first."""
        self._show(self._query)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search while one types."""
        event.stop()
        self._show(event.value)

    def _show(self, query: str) -> None:
        self._found = ranked(query, self._prompts)[:_MOST]
        listed = self.query_one(OptionList)
        listed.clear_options()
        listed.add_options([Option(Text(_line(text), no_wrap=True)) for text in self._found])
        listed.highlighted = 0 if self._found else None

    def action_move(self, way: str) -> None:
        """To the next one."""
        listed = self.query_one(OptionList)
        listed.action_cursor_up() if way == "up" else listed.action_cursor_down()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give the one that is marked."""
        event.stop()
        at = self.query_one(OptionList).highlighted
        self.dismiss(None if at is None else self._found[at])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Give the one that was clicked."""
        event.stop()
        self.dismiss(self._found[event.option_index])


def _line(text: str) -> str:
    return plain(" ".join(text.split())[:_SHOWN])
