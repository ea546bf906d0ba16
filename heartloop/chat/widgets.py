"""The parts of the screen. Whatever a model wrote is shown as text and takes no effect."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Collapsible, Input, Markdown, OptionList, Static, TextArea
from textual.widgets.markdown import MarkdownStream
from textual.widgets.option_list import Option

from heartloop.chat.drafts import Draft
from heartloop.chat.entries import Entry
from heartloop.chat.store import Hit, Listed
from heartloop.emotion import Band, band
from heartloop.policy.evals.show import plain, spark

_RAIL, _BAR, _TALL = 24, 12, 8
_AROUND, _SHOWN = 20, 80
"""Characters of a found message before what was sought, and in all."""
_COLOURS = {
    Band.S: "bright_green", Band.A: "green", Band.B: "yellow", Band.C: "dark_orange", Band.F: "red",
}  # fmt: skip


def gauge(levels: Sequence[float], title: str, *, estimated: bool) -> Text:
    """One line: what is going on, the emotion with its band, and how it came there."""
    line = Text(" ", no_wrap=True, overflow="ellipsis")
    if not levels:
        return line.append(plain(title), "bold")
    letter = band(levels[-1])
    filled = round(levels[-1] / 100 * _RAIL)
    line.append("━" * filled, _COLOURS[letter])
    line.append("─" * (_RAIL - filled), "dim")
    line.append(f" {levels[-1]:.1f} {letter} ", _COLOURS[letter])
    line.append("(estimate) " if estimated else "", "dim italic")
    line.append(spark(levels[-_RAIL:]), _COLOURS[letter])
    return line.append(f"  {plain(title)}", "bold")


def why(entry: Entry | None, number: int = 0) -> Text:
    """What moved the emotion with a message: contributions, or what an estimate rests on.

    Args:
        entry: The message; None where there is none yet.
        number: Which it is, from 1.
    """
    if entry is None:
        return Text("Nothing yet.", style="dim")
    if entry.reaction:
        found = entry.reaction.appraisal
        text = Text(f"message {number}: change {entry.reaction.change:+.1f}\n\n", style="bold")
        text.append_text(_bars(found.contributions, 6.0, "{:+z.1f}", "red"))
        felt = f"\nfeels {found.felt}, shows {found.shown}" if found.felt else ""
        return text.append(plain(f"{felt}\nread by {found.reader}"), "dim not bold")
    if entry.feeling:
        text = Text(f"message {number}: an estimate\nfrom words alone\n\n", style="bold")
        for primary, share in entry.feeling.primaries.items():
            text.append_text(_bars({primary: share}, 1.0, "{:.0%}", "green"))
            for name, part in entry.feeling.under(primary).items():
                text.append(plain(f"  {name} {part:.0%}\n"), "dim not bold")
        rests = ", ".join(entry.feeling.words) or "no feeling word"
        return text.append(plain(f"\nrests on: {rests}"), "dim not bold")
    return Text("Nothing yet.", style="dim")


def tried(entry: Entry | None) -> Text:
    """Which loop made a message, and each of its drafts."""
    if entry is None or entry.drafts is None:
        return Text("No loop ran. One does with a policy such as heart:seedling.", style="dim")
    run = entry.drafts
    text = Text(plain(f"{run.loop} around {run.policy}\n"), style="bold")
    tokens = "" if run.tokens is None else f"{run.tokens} tokens, "
    cost = f"{run.samples} calls, {tokens}{run.seconds:.1f} s"
    judged = f"\nscores: estimates by {run.judge}" if run.judge else "\nno judge: none is scored"
    text.append(
        plain(f"chosen by {run.how}\nstopped: {run.stopped}\n{cost}{judged}\n"), "dim not bold"
    )
    for number, draft in enumerate(run.drafts):
        text.append_text(_draft(draft, number + 1, said=number == run.chosen))
    return text


def _draft(draft: Draft, number: int, *, said: bool) -> Text:
    """A draft: what the policy was nudged with, its score, its text."""
    felt = " ".join(filter(None, (draft.valence, draft.emotion)))
    score = "" if draft.value is None else f"{draft.value:.2f}"
    parts = filter(None, (f"{number}", felt, score, "said" if said else ""))
    text = Text(style="not bold")
    text.append(plain(f"\n{' · '.join(parts)}\n"), "bold green" if said else "bold")
    if draft.text is None:
        return text.append(plain(f"{draft.error or 'failed'}\n"), "red")
    return text.append(plain(f"{draft.text}\n"))


def _bars(values: Mapping[str, float], full: float, form: str, below: str) -> Text:
    """A bar for each value, the largest first; those below zero in another colour."""
    text = Text(style="not bold")
    for name, value in sorted(values.items(), key=lambda item: -abs(item[1])):
        size = min(_BAR, round(abs(value) / full * _BAR))
        text.append(f"{plain(name):<13.13} {form.format(value):>6} ")
        text.append("█" * size + "\n", "green" if value >= 0 else below)
    return text


class Said(Vertical):
    """One message, which may still grow. What a person says is plain text, the rest is Markdown."""

    def __init__(self, entry: Entry, heading: str, *, chosen: bool = True, folded: bool = True):
        """Show an entry under a heading.

        Args:
            entry: What to show.
            heading: Who speaks, and what came of it.
            chosen: False for a version that nothing follows.
            folded: Whether a think block is closed.
        """
        super().__init__(classes=f"said {entry.role}" + ("" if chosen else " aside"))
        self.entry, self._heading, self._folded = entry, heading, folded
        self._shown = self._thought = ""
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        """Heading and text."""
        yield Static(plain(self._heading), markup=False, classes="heading")
        if self.entry.role == "user":
            yield Static(markup=False, classes="text")
        else:
            yield Markdown(parser_factory=_parser, open_links=False)

    async def on_mount(self) -> None:
        """Show what there is."""
        await self.grow(self.entry)

    async def grow(self, entry: Entry) -> None:
        """Show the next state of the entry; what is shown already is not drawn again."""
        self.entry = entry
        if entry.think and entry.think != self._thought:
            await self._unfold(entry.think)
        text = plain(entry.text)
        if entry.role == "user":
            self.query_one(".text", Static).update(text)
        elif entry.cut and text.startswith(self._shown):
            self._stream = self._stream or Markdown.get_stream(self.query_one(Markdown))
            await self._stream.write(text[len(self._shown) :])
        elif text != self._shown:
            await self.end()
            await self.query_one(Markdown).update(text)
        self._shown = text

    async def _unfold(self, think: str) -> None:
        """Show a think block, which may have grown."""
        if not self._thought:
            block = Static(markup=False, classes="think")
            await self.mount(Collapsible(block, title="think", collapsed=self._folded), after=0)
        self._thought = think
        self.query_one(".think", Static).update(plain(think))

    async def end(self) -> None:
        """No more of it is to come."""
        if self._stream:
            await self._stream.stop()
            self._stream = None

    async def on_unmount(self) -> None:
        """What is taken away grows no more."""
        await self.end()

    def fold(self, *, closed: bool) -> None:
        """Close or open the think block."""
        self._folded = closed
        for block in self.query(Collapsible):
            block.collapsed = closed


def _parser() -> MarkdownIt:
    """Markdown in which HTML is text like any other."""
    return MarkdownIt("gfm-like", {"html": False})


class Composer(TextArea):
    """Where one writes: it grows with the text, sends on Enter, and remembers."""

    class Sent(Message):
        """The person sent a text."""

        def __init__(self, text: str) -> None:
            """With this text."""
            super().__init__()
            self.text = text

    def __init__(self, prompts: Sequence[str] = ()) -> None:
        """Remember earlier prompts, oldest first."""
        super().__init__(id="composer", placeholder="Write here. Enter sends, Ctrl+J breaks a line")
        self._prompts = list(prompts)
        self._draft, self._at = "", 0

    @property
    def prompts(self) -> list[str]:
        """Earlier messages, newest first; commands aside."""
        return [p for p in reversed(self._prompts) if p[:1] != "/" or p[:2] == "//"]

    def on_text_area_changed(self) -> None:
        """Grow and shrink with the text."""
        self.styles.height = min(_TALL, max(1, self.wrapped_document.height)) + 2

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            event.prevent_default()
            event.stop()
            self._send()
        elif event.key in ("ctrl+j", "shift+enter"):
            event.prevent_default()
            event.stop()
            self.insert("\n")
        else:
            await super()._on_key(event)

    def _send(self) -> None:
        text = self.text
        if text.strip():
            self._prompts = [*(p for p in self._prompts if p != text), text]
            self._at = 0
            self.load_text("")
            self.post_message(self.Sent(text))

    def action_cursor_up(self, select: bool = False) -> None:
        """Up; from the first line on to earlier prompts that hold what was typed."""
        if self.cursor_location[0] or select:
            super().action_cursor_up(select)
        else:
            self._recall(1)

    def action_cursor_down(self, select: bool = False) -> None:
        """Down; from the last line on to later prompts."""
        if self.cursor_location[0] < self.document.line_count - 1 or select or not self._at:
            super().action_cursor_down(select)
        else:
            self._recall(-1)

    def _recall(self, step: int) -> None:
        if self._at == 0:
            self._draft = self.text
        found = [p for p in self._prompts if self._draft.casefold() in p.casefold()][::-1]
        self._at = min(max(0, self._at + step), len(found))
        self.load_text(found[self._at - 1] if self._at else self._draft)
        self.move_cursor(self.document.end)


class Finder(Vertical):
    """A search over a list: while one types, arrows move the mark and Enter takes what it is on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move('up')", "Up"), Binding("down", "move('down')", "Down"),
    ]  # fmt: skip

    class Taken(Message):
        """The person took one of the list."""

        def __init__(self, option: Option, place: int) -> None:
            """Which is at this place, from 0."""
            super().__init__()
            self.option, self.place = option, place

    def __init__(self, about: str, text: str = "", *, id: str) -> None:
        """Begin with a text.

        Args:
            about: Stands where nothing is typed.
            text: What is searched for at first.
            id: Of this widget.
        """
        super().__init__(id=id)
        self._about, self._text = about, text

    def compose(self) -> ComposeResult:
        """The search over the list."""
        yield Input(self._text, placeholder=self._about, id="search")
        yield OptionList(id="list", markup=False)

    def fill(self, options: Sequence[Option]) -> None:
        """List these, the first of them marked."""
        found = self.query_one(OptionList)
        found.clear_options()
        found.add_options(options)
        found.highlighted = 0 if options else None

    def action_move(self, way: str) -> None:
        """Move the mark."""
        found = self.query_one(OptionList)
        found.action_cursor_up() if way == "up" else found.action_cursor_down()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take what is marked."""
        event.stop()
        found = self.query_one(OptionList)
        if found.highlighted is not None:
            option = found.get_option_at_index(found.highlighted)
            self.post_message(self.Taken(option, found.highlighted))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take what was clicked."""
        event.stop()
        self.post_message(self.Taken(event.option, event.option_index))


class Sessions(Finder):
    """The sessions, or those and the messages that a search found."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Close")]

    class Left(Message):
        """The person wants the list no more."""

    class Chosen(Message):
        """A session was chosen, perhaps with a message of it."""

        def __init__(self, session: int, entry: int | None) -> None:
            """Of these ids."""
            super().__init__()
            self.session, self.entry = session, entry

    class Asked(Message):
        """Something was typed into the search."""

        def __init__(self, text: str) -> None:
            """With this text."""
            super().__init__()
            self.text = text

    def on_input_changed(self, event: Input.Changed) -> None:
        """Ask for what is typed."""
        event.stop()
        self.post_message(self.Asked(event.value))

    def action_leave(self) -> None:
        """Say that the list is wanted no more."""
        self.post_message(self.Left())

    def show(self, rows: Sequence[Listed | Hit], sought: str = "") -> None:
        """Show these instead, found messages from the first word that was sought on."""
        self.fill([_option(row, sought) for row in rows])

    def on_finder_taken(self, event: Finder.Taken) -> None:
        """Say which was chosen."""
        event.stop()
        session, _, entry = (event.option.id or "").partition(":")
        self.post_message(self.Chosen(int(session), int(entry) if entry else None))


def _option(row: Listed | Hit, sought: str) -> Option:
    if isinstance(row, Hit):
        about = _about(row.text, sought)
        return Option(Text(plain(f"{row.name}\n  {about}")), id=f"{row.session}:{row.entry}")
    when = time.strftime("%d %b %H:%M", time.localtime(row.changed))
    return Option(Text(plain(f"{row.id} {row.name}\n  {row.mode} · {when}")), id=str(row.id))


def _about(text: str, sought: str) -> str:
    """A message around the first of the words sought, on one line."""
    line = " ".join(text.split())
    places = [line.casefold().find(word) for word in sought.casefold().split()]
    at = min((place for place in places if place >= 0), default=0)
    begin = max(0, line.rfind(" ", 0, max(0, at - _AROUND)) + 1) if at > _AROUND else 0
    return f"{'... ' * bool(begin)}{line[begin:]}"[:_SHOWN]
