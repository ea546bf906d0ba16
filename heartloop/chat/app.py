"""The terminal client: what is typed, pressed or chosen becomes a command of the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from textual.app import SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.widgets import Input

from heartloop.chat import care, commands
from heartloop.chat.commands import COMMANDS, Command
from heartloop.chat.desk import SETTINGS
from heartloop.chat.dialogs import Help, Prompts
from heartloop.chat.editor import written
from heartloop.chat.entries import ABOUT, Mode
from heartloop.chat.export import export, quote
from heartloop.chat.session import Due
from heartloop.chat.stage import WIDE, Stage
from heartloop.chat.store import Hit, Listed
from heartloop.chat.widgets import Composer, Said, Sessions
from heartloop.errors import HeartloopError, InvalidInput
from heartloop.policy.evals.show import plain

_ENDLESS = 10_000


class ChatApp(Stage):
    """Talk, help, watch, replay, compare."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            c.key, f"perform('{c.name}')", c.about, id=c.name, show=False,
            priority=c.key not in ("escape", "f1"),
        )
        for c in COMMANDS if c.key
    ]  # fmt: skip

    async def on_composer_sent(self, event: Composer.Sent) -> None:
        """Do the command, or say the text; what could not be done is given back to be mended."""
        self.clear_notifications()
        try:
            found = commands.parse(event.text, self.session.mode)
            if found:
                await self._do(*found)
            else:
                await self._say(re.sub("^//", "/", event.text))
        except HeartloopError as error:
            self._complain(error)
            self._put_down(event.text)

    async def action_perform(self, name: str) -> None:
        """Do the command of that name, as its key or the palette asks for."""
        try:
            found = commands.parse(f"/{name}", self.session.mode)
            if found:
                await self._do(*found)
        except HeartloopError as error:
            self._complain(error)

    async def _do(self, command: Command, argument: str) -> None:
        if command.waits:
            self._must_be_idle()
        done = getattr(self, f"do_{command.name}")(argument)
        if done is not None:
            await done

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of commands wait while a dialog is open; one can leave at any time."""
        if action == "perform" and isinstance(self.screen, ModalScreen):
            return parameters == ("quit",)
        return super().check_action(action, parameters)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: every command of the mode; one that needs more is begun in the composer."""
        for command in commands.in_mode(self.session.mode):
            yield SystemCommand(command.usage, command.about, self._palette(command))

    def _palette(self, command: Command) -> Callable[[], Any]:
        if command.argument and not command.argument.startswith("["):
            return lambda: self._put_down(f"/{command.name} ")
        return lambda: self.call_later(self.action_perform, command.name)

    def do_help(self, _: str) -> None:
        """Show the table of commands."""
        mode = self.session.mode
        narrow = self.size.width < WIDE
        table = commands.help_text(mode, self.desk.settings.keys, narrow=narrow)
        self.push_screen(Help(f"# {mode}: {ABOUT[mode]}\n\n{table}\n\n{_KEYS}"))

    async def do_new(self, argument: str) -> None:
        """Begin a session."""
        if argument and argument not in set(Mode):
            raise InvalidInput(f"expected one of {', '.join(Mode)}, got {argument!r}")
        await self.use(self.desk.begin(Mode(argument or self.session.mode)))

    def do_sessions(self, _: str) -> None:
        """Show or hide the list."""
        panel = self.query_one(Sessions)
        panel.display = not panel.display
        panel.query_one(Input).value = ""
        panel.show(self.desk.store.sessions())
        self.query_one("#list" if panel.display else Composer).focus()

    def on_sessions_left(self) -> None:
        """Hide the list."""
        self.query_one(Sessions).display = False
        self.query_one(Composer).focus()

    async def do_open(self, argument: str) -> None:
        """Open a stored session."""
        await self.use(self.desk.open(_number(argument)))

    def do_search(self, argument: str) -> None:
        """Show what a search finds."""
        self.query_one(Sessions).display = True
        self.query_one(Sessions).show(self._found(argument), argument)
        field = self.query_one("#search", Input)
        field.value = argument
        field.focus()

    def _found(self, text: str) -> list[Listed | Hit]:
        """The sessions of such a name, then the messages."""
        return [*self.desk.store.sessions(text), *self.desk.store.search(text)]

    def on_sessions_asked(self, event: Sessions.Asked) -> None:
        """Search while one types."""
        try:
            self.query_one(Sessions).show(self._found(event.text), event.text)
        except HeartloopError as error:
            self._complain(error)

    async def on_sessions_chosen(self, event: Sessions.Chosen) -> None:
        """Open the session, at the message that was found."""
        try:
            self._must_be_idle()
            session = self.desk.open(event.session)
            if event.entry:
                session.reveal(event.entry)
            await self.use(session, event.entry)
            self.query_one(Composer).focus()
        except HeartloopError as error:
            self._complain(error)

    def do_rename(self, argument: str) -> None:
        """Rename the session."""
        self.session.rename(argument)
        self._refresh()

    async def do_delete(self, argument: str) -> None:
        """Delete the session, when that is meant."""
        if argument != "yes":
            raise InvalidInput("this cannot be undone: write /delete yes")
        self.desk.store.delete(self.session.id)
        await self.use(self.desk.begin(self.session.mode))

    def do_compose(self, argument: str) -> None:
        """Give the terminal to the editor, and take its text into the composer."""
        composer = self.query_one(Composer)
        try:
            with self.suspend():
                text = written(argument or composer.text)
        except SuspendNotSupported as error:
            raise InvalidInput("this terminal cannot be lent to an editor") from error
        self._put_down(text)

    def do_prompts(self, argument: str) -> None:
        """Search the earlier prompts; the one that is chosen comes into the composer."""
        query = argument or self.query_one(Composer).text
        self.push_screen(Prompts(self.query_one(Composer).prompts, query), self._put_down)

    def _put_down(self, text: str | None) -> None:
        """Bring a text into the composer, to be sent or changed."""
        if text is not None:
            composer = self.query_one(Composer)
            composer.load_text(text)
            composer.move_cursor(composer.document.end)

    async def do_regenerate(self, _: str) -> None:
        """Draw the last reply again."""
        self.session.regenerate()
        await self._redraw()
        self._go(1)

    async def do_edit(self, _: str) -> None:
        """Put the last message back into the composer."""
        self._put_down(self.session.edit())
        await self._redraw()

    async def do_branch(self, argument: str) -> None:
        """Go on from an earlier message."""
        self.session.branch(_number(argument))
        await self._redraw()

    async def do_other(self, _: str) -> None:
        """Show the other version."""
        self.session.other()
        await self._redraw()

    def do_stop(self, _: str) -> None:
        """Break off."""
        self._halt = True
        self.session.stop()

    def do_step(self, _: str) -> None:
        """One reply and the reaction to it."""
        self._go(1 if self.session.due is Due.USER else 2)

    def do_run(self, _: str) -> None:
        """On to the end."""
        self._go(_ENDLESS)

    async def do_next(self, _: str) -> None:
        """The next episode."""
        await self.use(self.desk.replay(self._episode + 1))

    async def do_previous(self, _: str) -> None:
        """The episode before."""
        await self.use(self.desk.replay(self._episode - 1))

    async def do_episode(self, argument: str) -> None:
        """The episode of that number."""
        await self.use(self.desk.replay(_number(argument)))

    async def do_scenario(self, argument: str) -> None:
        """Another simulated user."""
        await self.use(self.desk.begin(self.session.mode, argument))

    def do_why(self, argument: str) -> None:
        """Show or hide the reasons; with a number, show those of that message."""
        panel = self.query_one("#why")
        self._asked = self.session.felt(_number(argument)).id if argument else None
        panel.display = self.session.why_shown = bool(argument) or not panel.display
        self._refresh()

    def do_loop(self, _: str) -> None:
        """Show or hide the drafts."""
        panel = self.query_one("#loop")
        panel.display = not panel.display

    def do_think(self, _: str) -> None:
        """Open or close all think blocks."""
        self._folded = not self._folded
        for said in self.query(Said):
            said.fold(closed=self._folded)

    def do_copy(self, argument: str) -> None:
        """Copy to the clipboard of the terminal."""
        self.copy_to_clipboard(plain(quote(self.session, argument)))
        self.notify("copied")

    def do_export(self, argument: str) -> None:
        """Write a file."""
        form, _, name = argument.partition(" ")
        path = Path(name).expanduser() if name else Path(f"heartloop-{self.session.id}.{form}")
        self.notify(plain(f"written: {export(self.session, form, path)}"), markup=False)

    def do_theme(self, argument: str) -> None:
        """Change the theme, or name those there are."""
        if argument:
            self.theme = self._known_theme(argument)
        else:
            self.notify(", ".join(sorted(self.available_themes)), markup=False, timeout=20)

    def do_region(self, argument: str) -> None:
        """Name the helplines of another place from now on."""
        care.referral(argument, "en")
        self.session.region = argument
        self.notify(f"set for this session; to keep it, write it to {SETTINGS}", markup=False)

    def do_data(self, _: str) -> None:
        """Say where the data lies."""
        self.notify(plain(str(self.desk.store.folder)), markup=False, timeout=20)

    async def do_about(self, _: str) -> None:
        """Say what this is."""
        self.notify(care.ai_notice(), timeout=20, markup=False)

    def do_quit(self, _: str) -> None:
        """Leave."""
        self.do_stop("")
        self.exit()


_KEYS = (
    "In the composer: Enter sends, Ctrl+J breaks a line, Up and Down go through earlier prompts "
    "(those that hold what you typed). Ctrl+P opens the palette. Two slashes send a message that "
    "begins with one."
)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise InvalidInput(f"expected a number, got {text!r}")
    return int(text)
