"""Every command of the client, once: slash commands, palette, keys and help are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heartloop.chat.entries import Mode
from heartloop.errors import InvalidInput, unknown

_ALL = frozenset(Mode)
_TALKING = frozenset({Mode.TALK, Mode.COMPARE})
_SPEAKING = _TALKING | {Mode.WATCH}
_WRITING = _TALKING | {Mode.HELP}
_SIMULATED = frozenset({Mode.HELP, Mode.WATCH})
_WATCHING, _REPLAYING = frozenset({Mode.WATCH}), frozenset({Mode.REPLAY})
_STORED = _ALL - {Mode.REPLAY}


@dataclass(frozen=True, slots=True)
class Command:
    """Something the person can have done."""

    name: str
    about: str
    argument: str = ""
    """How what follows the name is written; empty where nothing does."""
    key: str = ""
    """The key that does it, unless the person chose another."""
    modes: frozenset[Mode] = _ALL
    waits: bool = False
    """Whether it has to wait until nobody is speaking."""

    @property
    def usage(self) -> str:
        """How it is written."""
        return f"/{self.name} {self.argument}".strip()


COMMANDS = (
    Command("help", "Show what can be done here.", key="f1"),
    Command(
        "new",
        "Begin anew, in this mode or another.",
        "[talk|help|watch|compare]",
        "ctrl+n",
        waits=True,
    ),
    Command("sessions", "Show or hide the list of sessions.", key="ctrl+o"),
    Command("open", "Open the session of that number.", "NUMBER", waits=True),
    Command("search", "Find messages in all sessions.", "TEXT", "ctrl+f"),
    Command("rename", "Give this session a name.", "NAME", modes=_STORED),
    Command("delete", "Delete this session for good.", "yes", modes=_STORED, waits=True),
    Command(
        "compose", "Write the message in your editor.", "[TEXT]", "ctrl+g", _WRITING, waits=True
    ),
    Command("prompts", "Find an earlier prompt.", "[TEXT]", "ctrl+r", _WRITING),
    Command("regenerate", "Draw the last reply again.", key="f9", modes=_SPEAKING, waits=True),
    Command(
        "edit",
        "Take back your last message and change it.",
        key="ctrl+e",
        modes=_WRITING,
        waits=True,
    ),
    Command("branch", "Go on from an earlier message.", "NUMBER", modes=_STORED, waits=True),
    Command(
        "other",
        "Show what followed, or another version.",
        key="ctrl+t",
        modes=_STORED,
        waits=True,
    ),
    Command("stop", "Break off the reply, and keep what came.", key="escape"),
    Command("step", "Let the next one speak.", key="f5", modes=_WATCHING, waits=True),
    Command("run", "Let them talk until the end.", key="f6", modes=_WATCHING, waits=True),
    Command("next", "Show the next episode.", key="f8", modes=_REPLAYING, waits=True),
    Command("previous", "Show the episode before.", key="f7", modes=_REPLAYING, waits=True),
    Command("episode", "Show the episode of that number.", "NUMBER", modes=_REPLAYING, waits=True),
    Command("scenario", "Begin with another simulated user.", "ID", modes=_SIMULATED, waits=True),
    Command("why", "Show or hide what moved the emotion.", "[NUMBER]", "f2"),
    Command("loop", "Show or hide what a test-time loop tried.", key="f4", modes=_SPEAKING),
    Command("think", "Open or close the think blocks.", key="f3"),
    Command("copy", "Copy a message (the last one) or its code.", "[NUMBER|code]", "ctrl+y"),
    Command("export", "Write this session to a new file.", "md|jsonl [FILE]"),
    Command("theme", "Change the colours.", "[NAME]"),
    Command("region", "Whose helplines to name.", "PLACE"),
    Command("data", "Say where everything is kept."),
    Command("about", "Say what you are talking with."),
    Command("quit", "Leave; everything is kept.", key="ctrl+q"),
)
BY_NAME = {command.name: command for command in COMMANDS}


def in_mode(mode: Mode) -> list[Command]:
    """The commands of a mode."""
    return [command for command in COMMANDS if mode in command.modes]


def parse(text: str, mode: Mode) -> tuple[Command, str] | None:
    """The command that a line is and what follows its name; None for an ordinary message.

    Two slashes at the start send a message that begins with one.

    Raises:
        UnknownName: no such command.
        InvalidInput: it has no place in this mode.
    """
    if not text.startswith("/") or text.startswith("//"):
        return None
    name, _, rest = text[1:].partition(" ")
    if name not in BY_NAME:
        raise unknown("command", f"/{name}", [f"/{known}" for known in BY_NAME])
    command = BY_NAME[name]
    if mode not in command.modes:
        raise InvalidInput(f"/{name} has no place in {mode}: it is for {_modes(command)}")
    return command, rest.strip()


def help_text(mode: Mode, keys: Mapping[str, str], *, narrow: bool = False) -> str:
    """The commands of a mode in Markdown, with the keys that the person chose.

    Args:
        mode: Which are shown.
        keys: Those of the settings.
        narrow: A list in place of a table, which a narrow terminal would cut off.
    """
    if narrow:
        return "\n".join(_item(c, keys.get(c.name, c.key)) for c in in_mode(mode))
    rows = [
        f"| `{_cell(command.usage)}` | {keys.get(command.name, command.key)} | {command.about} |"
        for command in in_mode(mode)
    ]
    return "\n".join(["| command | key | what it does |", "|---|---|---|", *rows])


def _item(command: Command, key: str) -> str:
    return f"- `{command.usage}`{f' ({key})' if key else ''}: {command.about}"


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _modes(command: Command) -> str:
    return ", ".join(sorted(command.modes))
