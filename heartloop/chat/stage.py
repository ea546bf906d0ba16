"""The screen over a session, and the threads in which others speak."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from textual import work
from textual.app import App, ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from heartloop.chat import care
from heartloop.chat.cast import Way, way
from heartloop.chat.desk import Desk
from heartloop.chat.entries import ABOUT, PERSON, Entry, Mode
from heartloop.chat.session import Due, Session
from heartloop.chat.transcript import MakeRow, Transcript
from heartloop.chat.widgets import Composer, Said, Sessions, gauge, tried, why
from heartloop.env.play import Policy
from heartloop.errors import HeartloopError, InvalidInput, unknown
from heartloop.policy.evals.show import plain
from heartloop.types import StopReason

_AT_WORK = {
    Way.WORDS: "{name} is asked, its words will come one by one ... Esc breaks it off",
    Way.WHOLE: "{name} works on a reply that comes all at once ... Esc breaks it off",
    Way.DRAFTS: "{name} tries whole drafts and then says one ... Esc breaks it off",
}
_DUE = {
    Due.PERSON: "your move",
    Due.POLICY: "the policy's move",
    Due.USER: "the simulated user's move",
    Due.NOBODY: "over",
}
_OVER = {
    StopReason.SUCCESS: "the emotion is at its top",
    StopReason.FAILURE: "the emotion fell too low",
    StopReason.FAREWELL: "the simulated user took leave",
    StopReason.TURN_LIMIT: "all turns are used",
    StopReason.ERROR: "it could not be scored",
}

WIDE = 100
"""Columns from which on things stand side by side."""
_NOTICE = Entry(id=0, parent=None, role="notice", author="", text=care.ai_notice())
"""Stands above every talk with a policy; no part of the talk."""


class Stage(App[None]):
    """Shows one session at a time. What is known and decided lies in the session."""

    TITLE = "heartloop"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012  # as in App

    def __init__(self, desk: Desk, session: Session) -> None:
        """Show a session; others come from the desk."""
        super().__init__()
        self.desk, self.session = desk, session
        self._busy = self._halt = False
        self._loading = ""
        self._episode = 1
        self._folded = True
        self._live: dict[int, Said] = {}
        self._shown: list[int] = []
        self._asked: int | None = None

    def compose(self) -> ComposeResult:
        """Gauge, list and transcript and reasons side by side, status, composer."""
        yield Static(id="gauge")
        with Horizontal(id="middle"):
            yield Sessions("search", id="sessions")
            yield Transcript()
            with Vertical(id="side"):
                with VerticalScroll(id="why"):
                    yield Static(id="reasons")
                with VerticalScroll(id="loop"):
                    yield Static(id="drafts")
        yield Static(id="status", markup=False)
        yield Composer(self.desk.store.prompts(PERSON))

    async def on_mount(self) -> None:
        """Bring the session up; models are loaded while it is on the screen already."""
        try:
            self.theme = self._known_theme(self.desk.settings.theme)
        except InvalidInput as error:
            self._complain(error)
        self.set_keymap(self.desk.settings.keys)
        for place in ("#sessions", "#why", "#loop"):
            self.query_one(place).display = False
        self.query_one(Composer).focus()
        if self.desk.store.warning:
            self.notify(plain(self.desk.store.warning), timeout=60, severity="error", markup=False)
        await self.use(self.session)

    async def use(self, session: Session, at: int | None = None) -> None:
        """Show another session, at the message of that id or at its end."""
        self.session, self._asked = session, None
        self.query_one("#why").display = session.why_shown and not session.estimated
        self._episode = self._number() if session.mode is Mode.REPLAY else 1
        await self._redraw(at)
        if session.mode in (Mode.HELP, Mode.WATCH) and session.last is None:
            self._go(1)
        if any(not self.desk.cast.ready(spec) for spec in session.setup.policies):
            self._load(session)

    def _number(self) -> int:
        return next(n for n, e in enumerate(self.desk.played, 1) if e == self.session.setup.episode)

    async def _redraw(self, at: int | None = None) -> None:
        self._live = {}
        self._shown = [entry.id for entry in self.session.path]
        rows: list[MakeRow] = [partial(self._row, *pair) for pair in enumerate(self._shown, 1)]
        if self.session.estimated:
            rows.insert(0, lambda: [Said(_NOTICE, "before you begin")])
        place = None if at is None else self._shown.index(at) + self.session.estimated
        await self.query_one(Transcript).lay_out(rows, place)
        self._refresh()

    async def _catch_up(self) -> None:
        """Show what was said since; all is drawn anew only where something else was shown."""
        path = self.session.path
        known = len(self._shown)
        extended = [entry.id for entry in path[:known]] == self._shown
        if self.session.mode is Mode.COMPARE or not extended:
            await self._redraw()
            return
        for entry in path[known:]:
            await self._append(entry.id)
        self._refresh()

    async def _append(self, said: int) -> None:
        self._shown.append(said)
        number = min(len(self._shown), len(self.session.path))
        row = partial(self._alone, number, said)
        await self.query_one(Transcript).add(row)

    def _alone(self, number: int, said: int) -> list[Said]:
        """Message `number` of the path, as it stands now."""
        return [self._made(self.session.entry(said), number)]

    def _row(self, number: int, said: int) -> list[Said]:
        """A message, or in compare the newest reply of each policy, the chosen one named so."""
        entry = self.session.entry(said)
        if self.session.mode is not Mode.COMPARE or entry.role != "assistant":
            return self._alone(number, said)
        newest = {e.author: e for e in self.session.siblings(entry)} | {entry.author: entry}
        made = newest.values()
        return [self._made(e, number, chosen=e == entry if len(made) > 1 else None) for e in made]

    def _made(self, entry: Entry, number: int, *, chosen: bool | None = None) -> Said:
        heading = self._heading(entry, number, beside=chosen is not None)
        goes_on = " · goes on from here" * bool(chosen)
        said = Said(entry, heading + goes_on, chosen=chosen is not False, folded=self._folded)
        self._live[entry.id] = said
        return said

    def _heading(self, entry: Entry, number: int, *, beside: bool) -> str:
        parts = [f"{number} {entry.author}"]
        if entry.level is not None:
            change = self.session.change(entry)
            parts.append(f"{entry.level:.1f}{'' if change is None else f' {change:+.1f}'}")
        if entry.drafts:
            parts.append(entry.drafts.about)
        versions = self.session.siblings(entry)
        if len(versions) > 1 and entry.role != "notice" and not beside:
            parts.append(f"version {versions.index(entry) + 1} of {len(versions)}")
        return " · ".join(parts)

    def _refresh(self) -> None:
        """The lines and panels about the session."""
        session = self.session
        title = f"{session.mode} · {session.name}"
        line = gauge(session.emotions, title, estimated=session.estimated)
        self.query_one("#gauge", Static).update(line)
        self.query_one("#reasons", Static).update(why(*self._moved()))
        spoken = next((e for e in reversed(session.path) if e.role == "assistant"), None)
        self.query_one("#drafts", Static).update(tried(spoken))
        if not self._busy:
            hint = "F1 help · Ctrl+P commands"
            self._status(self._loading or f"{self._due()} · {hint} · {ABOUT[session.mode]}")

    def _moved(self) -> tuple[Entry | None, int]:
        """The message whose reasons are shown, and its number: the one asked for, or the last."""
        path = list(enumerate(self.session.path, 1))
        felt = [(entry, number) for number, entry in path if entry.level is not None]
        asked = [(entry, number) for entry, number in felt if entry.id == self._asked]
        found = asked or felt
        return found[-1] if found else (None, 0)

    def _due(self) -> str:
        """Whose move it is; of an episode its place among all, of a dialogue that ended why."""
        session = self.session
        if session.due is not Due.NOBODY:
            return _DUE[session.due]
        parts = [f"episode {self._episode} of {len(self.desk.played)}"] * bool(
            session.setup.episode
        )
        return " · ".join(
            [*parts, f"over: {_OVER[session.ended]}" if session.ended else "unfinished"]
        )

    def _status(self, text: str) -> None:
        self.query_one("#status", Static).update(plain(text))

    async def _say(self, text: str) -> None:
        self._must_be_idle()
        self.session.say(text)
        await self._catch_up()
        await self.query_one(Transcript).to_end()
        self._go(1)

    def _must_be_idle(self) -> None:
        if self._busy:
            raise InvalidInput("somebody is speaking: wait, or press Esc to break it off")

    def _complain(self, error: Exception) -> None:
        self.notify(plain(str(error)), severity="error", markup=False)

    @work(thread=True)
    def _load(self, session: Session) -> None:
        """Load the policies; one may write meanwhile."""
        try:
            self._make(session)
        except HeartloopError as error:
            self._tell(self._complain, error)
        self._tell(self._refresh)

    def _make(self, session: Session) -> None:
        for spec in session.setup.policies:
            if not self.desk.cast.ready(spec):
                self._tell(self._loads, f"loading {spec} ...")
                try:
                    self.desk.cast.policy(spec)
                finally:
                    self._tell(self._loads, "")

    def _loads(self, what: str) -> None:
        """Say what is loaded, also where somebody waits for it, until nothing is."""
        self._loading = what
        if what:
            self._status(what)
        else:
            self._refresh()

    def _go(self, moves: int) -> None:
        """Let the others make up to so many moves in a thread."""
        self._busy, self._halt, self._asked = True, False, None
        self._work(self.session, moves)

    @work(thread=True)
    def _work(self, session: Session, moves: int) -> None:
        try:
            for _ in range(moves):
                if self._halt or not self._move(session):
                    break
        except HeartloopError as error:
            self._tell(self._complain, error)
        finally:
            self._tell(self._rest)

    def _move(self, session: Session) -> bool:
        """One move of somebody else; whether there was one."""
        if session.due is Due.USER:
            self._tell(self._status, "the simulated user reads ... Esc stops after that")
            session.react()
            self._tell(self._catch_up)
            return True
        if session.due is not Due.POLICY:
            return False
        self._make(session)
        if self._halt:
            return False
        for entry in session.answer(self._began):
            self._tell(self._grown, entry)
        self._tell(self._ended)
        return session.due is not Due.POLICY

    def _began(self, policy: Policy) -> None:
        self._tell(self._status, _AT_WORK[way(policy)].format(name=policy.name))

    def _tell(self, function: Callable[..., Any], *values: Any) -> None:
        """Call in the thread of the screen, unless that has gone."""
        if self.is_running:
            self.call_from_thread(function, *values)

    async def _grown(self, entry: Entry) -> None:
        """Show the next state of a reply, or the notice that there is none."""
        if entry.id not in self._shown:
            if entry.role == "assistant":
                self._status(f"{entry.author} speaks ... Esc breaks it off and keeps what came")
            await self._append(entry.id)
        elif (said := self._live.get(entry.id)) and said.is_attached:
            await said.grow(entry)

    async def _ended(self) -> None:
        """No reply grows any more."""
        self._live = {number: said for number, said in self._live.items() if said.is_attached}
        for said in self._live.values():
            await said.end()
        await self._catch_up()

    async def _rest(self) -> None:
        self._busy = False
        self._refresh()
        if not self.query_one(Sessions).display:
            self.query_one(Composer).focus()

    def _known_theme(self, name: str) -> str:
        if name not in self.available_themes:
            raise unknown("theme", name, self.available_themes)
        return name
