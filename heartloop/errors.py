"""What can go wrong, named by whose turn it is to act.

HeartloopError
├── InvalidInput            the caller's to mend: commands exit with code 2
│   ├── ConfigError         a setting that is unknown or out of range
│   ├── RecordError         a broken line of a file, named by file and line
│   ├── UnknownName         a policy, user, preset, reward ... that does not exist
│   ├── UnknownEmotion      a word the ontology does not know
│   └── OutputRefused       a path that exists already or cannot be written
├── MissingExtra            an optional dependency that is not installed
├── EpisodeFailure          a dialogue that could not be scored: masked, counted, never a reward
│   └── CallFailure         a model's answer that did not come, or could not be read
├── EndpointFailure         a model that cannot be used any more: the run stops and names it
└── TrainingFailure         a run that must stop and say why
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 24
"""Most names that a message lists."""


class HeartloopError(Exception):
    """Root of every error heartloop raises on purpose."""


class InvalidInput(HeartloopError, ValueError):
    """Something given from outside is wrong."""


class ConfigError(InvalidInput):
    """A setting is unknown or out of range."""


class RecordError(InvalidInput):
    """A line of a file is broken."""

    def __init__(self, path: object, line: int, reason: str) -> None:
        """Name the place and the reason."""
        super().__init__(f"{path}:{line}: {reason}")
        self.path, self.line, self.reason = str(path), line, reason


class UnknownName(InvalidInput, LookupError):
    """A name that is not registered."""


class UnknownEmotion(InvalidInput, LookupError):
    """A word the ontology does not know."""


class OutputRefused(InvalidInput):
    """A path that exists already or cannot be written."""


class MissingExtra(HeartloopError, ImportError):
    """An optional dependency is needed and not installed."""


class EpisodeFailure(HeartloopError):
    """A dialogue that could not be scored."""

    tokens: int | None = None
    """Sampled before a reply was given up, where that is known."""


class CallFailure(EpisodeFailure):
    """A model's answer did not come, or could not be read."""


class EndpointFailure(HeartloopError):
    """A model cannot be used any more."""


class TrainingFailure(HeartloopError):
    """A run that must stop."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """An `UnknownName` that lists what is known, nearest first."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names[:_LISTED])}{more}"
    return UnknownName(f"no {kind} called {name!r}; {hint}")


def extra(name: str, cause: ImportError) -> MissingExtra:
    """A `MissingExtra` with the line that installs it."""
    return MissingExtra(f"this needs the {name!r} extra: pip install 'heartloop[{name}]' ({cause})")
