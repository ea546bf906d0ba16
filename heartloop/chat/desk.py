"""What the client has at hand: where sessions are kept, what new ones begin with, the settings."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from heartloop.chat import care
from heartloop.chat.cast import Cast
from heartloop.chat.commands import BY_NAME, COMMANDS
from heartloop.chat.entries import Mode, Setup
from heartloop.chat.session import Session
from heartloop.chat.store import Store
from heartloop.env.record import read
from heartloop.errors import ConfigError, InvalidInput, unknown
from heartloop.types import Episode, Scenario, Value

SETTINGS = "settings.toml"
THEME = "textual-dark"
_KEY = re.compile(
    r"escape|((shift|ctrl|alt)\+)*(f([1-9]|1\d|2[0-4])|pageup|pagedown)"
    r"|(ctrl|alt)\+(shift\+)?[a-z0-9]"
)
_WRITING = frozenset(
    "ctrl+j ctrl+m ctrl+i ctrl+h ctrl+p ctrl+a ctrl+c ctrl+v ctrl+x ctrl+z".split()
)
"""Keys of the composer and of the palette; some a terminal cannot tell from Enter or Tab."""


class Settings(Value):
    """What the person set in the settings file of the data directory."""

    theme: str = THEME
    region: str = ""
    """Whose helplines to name; by default that of the system's language."""
    keys: dict[str, str] = Field(default_factory=dict)
    """Keys of commands, by the command's name."""


def settings(folder: Path) -> Settings:
    """The settings of a data directory; the defaults where there is no file.

    Raises:
        ConfigError: the file cannot be read, or names what does not exist.
    """
    path = folder / SETTINGS
    if not path.exists():
        return Settings()
    try:
        found = Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {place}: {first['msg']}") from error
    for name in found.keys:
        if name not in BY_NAME:
            raise ConfigError(f"{path}: {unknown('command', name, BY_NAME)}")
    taken = Counter(found.keys.get(c.name, c.key) for c in COMMANDS)
    for name, key in found.keys.items():
        if not _KEY.fullmatch(key) or key in _WRITING:
            raise ConfigError(
                f'{path}: key {key!r} of {name!r} cannot be used: expected one such as "ctrl+l" or '
                '"f10" that writing does not need'
            )
        if taken[key] > 1:
            raise ConfigError(f"{path}: key {key!r} of {name!r} belongs to another command too")
    if found.region:
        care.referral(found.region, "en")
    return found


def episodes(run: Path) -> list[Episode]:
    """The episodes of a file, or of a run directory: its evaluations, then its training.

    Raises:
        InvalidInput: there are none.
        RecordError: a line is broken.
    """
    files = sorted(run.glob("*.jsonl")) if run.is_dir() else [run]
    found = [e for path in files if path.name != "metrics.jsonl" for _, e in read(path)]
    if not found:
        raise InvalidInput(f"{run} holds no episode: expected a run directory or episode lines")
    return found


@dataclass
class Desk:
    """Begins and opens sessions."""

    cast: Cast
    store: Store
    base: Setup
    """What new sessions begin with."""
    people: Sequence[Scenario] = ()
    """Whom a simulated user can play."""
    played: Sequence[Episode] = ()
    """What can be replayed."""
    settings: Settings = field(default_factory=Settings)

    @property
    def region(self) -> str:
        """Whose helplines are named."""
        return self.settings.region or care.region()

    def begin(self, mode: Mode, scenario: str = "") -> Session:
        """A new session.

        Args:
            mode: Who plays whom.
            scenario: Id of a scenario, or how it begins; empty for the one at hand.

        Raises:
            InvalidInput: what the mode needs is not at hand.
        """
        if mode is Mode.REPLAY:
            return self.replay(1)
        policies = self.base.policies
        wanted = {Mode.HELP: 0, Mode.COMPARE: 2}.get(mode, 1)
        changes = {
            "mode": mode,
            "policies": policies[:wanted],
            "scenario": self.person(scenario) if mode in (Mode.HELP, Mode.WATCH) else None,
            "episode": None,
        }
        return self._session(self.base.model_copy(update=changes))

    def person(self, name: str = "") -> Scenario | None:
        """The scenario whose id begins so; without a name the one at hand.

        Raises:
            UnknownName: there is none.
        """
        if not name:
            return self.base.scenario or (self.people[0] if self.people else None)
        found = [person for person in self.people if person.id.startswith(name)]
        if not found:
            raise unknown("scenario", name, (person.id for person in self.people))
        return found[0]

    def replay(self, number: int) -> Session:
        """The episode of that number (from 1).

        Raises:
            InvalidInput: there is no such episode.
        """
        if not self.played:
            raise InvalidInput("nothing to replay: start with --run and a run directory")
        if not 1 <= number <= len(self.played):
            raise InvalidInput(f"expected an episode from 1 to {len(self.played)}, got {number!r}")
        episode = self.played[number - 1]
        return self._session(Setup(mode=Mode.REPLAY, episode=episode), keep=False)

    def open(self, number: int) -> Session:
        """A stored session, where it was left."""
        return Session.reopen(self.store, number, self.cast, self.region)

    def _session(self, setup: Setup, *, keep: bool = True) -> Session:
        return Session(setup, self.cast, self.store if keep else None, self.region)
