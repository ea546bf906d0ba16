"""Cue banks: short phrases given to a policy about its own draft, and their controls."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from heartloop.errors import InvalidInput, unknown
from heartloop.types import Value

Valence = Literal["positive", "negative", "neutral"]
EKMAN = ("joy", "surprise", "sadness", "anger", "fear", "disgust")
"""The six emotions of HEART's cues (arXiv 2509.22876); the other groups are controls."""
LEAK = 5
"""Words in a row that, said by the policy, betray a cue."""
_WORD = re.compile(r"\w+")
KEPT = 512
"""Texts whose words are kept: cues come again, and a reply is held against all that were given."""


class Cue(Value):
    """One phrase; about the policy's draft, never about the person it talks with."""

    id: str
    text: str
    emotion: str = ""
    valence: Valence = "neutral"
    demand: bool = False
    """Whether it asks for something to be done, feeling aside."""
    source: str = "heartloop (Apache-2.0)"

    @property
    def words(self) -> int:
        """Length, which controls are matched in."""
        return len(self.text.split())


class Bank(Value):
    """The cues that loops draw from."""

    groups: dict[str, tuple[Cue, ...]]
    """By emotion of `EKMAN`, and the controls "neutral", "demand" and "random"."""
    stimuli: dict[str, Cue]
    """Of EmotionPrompt, by number: given with the task itself."""

    def cues(self, *groups: str) -> tuple[Cue, ...]:
        """The cues of some groups.

        Raises:
            UnknownName: there is no such group.
        """
        for group in groups:
            if group not in self.groups:
                raise unknown("group of cues", group, self.groups)
        return tuple(cue for group in groups for cue in self.groups[group])

    def stimulus(self, number: str) -> Cue:
        """The stimulus of that number.

        Raises:
            UnknownName: there is none.
        """
        if number not in self.stimuli:
            raise unknown("stimulus", number, self.stimuli)
        return self.stimuli[number]


def bank(path: str | Path | None = None) -> Bank:
    """The cues of heartloop, or those of a file in their place as far as it has any.

    Args:
        path: A TOML file of the form of `cues.toml`; or JSON with the same fields, as
            EmotionPrompt's published texts are kept. Ids number the texts of a group.

    Raises:
        InvalidInput: the file cannot be read as such.
    """
    own = _own()
    if path is None:
        return own
    read = _read(Path(path))
    if lost := read.bank.keys() - own.groups.keys():
        raise InvalidInput(
            f"{path} has cues for {sorted(lost)}, which no loop gives: expected some of "
            f"{', '.join(own.groups)}"
        )
    made = _made(read, read.source or Path(path).name, own)
    return Bank(groups={**own.groups, **made.groups}, stimuli={**own.stimuli, **made.stimuli})


def digest(cues: Iterable[Cue]) -> str:
    """Tells cues from others of the same ids; "" where all are heartloop's own."""
    given = list(cues)
    if _known().issuperset(given):
        return ""
    said = json.dumps([[cue.id, cue.text, cue.valence] for cue in given])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


class _Group(Value):
    """Of a file: valence and demand are those of heartloop's own group unless given."""

    texts: tuple[str, ...] = Field(min_length=1)
    valence: Valence | None = None
    demand: bool | None = None

    @field_validator("texts")
    @classmethod
    def _say_something(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(str.strip, texts)):
            raise ValueError("a text is empty")
        return texts


class _Stimulus(Value, extra="ignore"):
    """Of a file; in the published one a demand is a word, which begins with "none" for none."""

    id: str = Field(min_length=1)
    text: str = Field(pattern=r"\S")
    demand: bool

    @field_validator("demand", mode="before")
    @classmethod
    def _is_word(cls, demand: object) -> object:
        return not demand.startswith("none") if isinstance(demand, str) else demand


class _File(Value):
    """What a file of cues holds."""

    source: str = ""
    note: str = ""
    bank: dict[str, _Group] = Field(default_factory=dict)
    stimuli: tuple[_Stimulus, ...] = ()


def _read(path: Path) -> _File:
    try:
        text = path.read_text(encoding="utf-8")
        data: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        read = _File.model_validate(data)
        why = "" if read.bank or read.stimuli else "it holds none"
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    except ValueError as error:
        why = str(error)
    if why:
        raise InvalidInput(f'expected cues under "bank" or "stimuli" in {path}: {why}')
    return read


@cache
def _own() -> Bank:
    text = files("heartloop.policy.loops").joinpath("cues.toml").read_text(encoding="utf-8")
    return _made(_File.model_validate(tomllib.loads(text)), Cue.model_fields["source"].default)


@cache
def _known() -> frozenset[Cue]:
    own = _own()
    return frozenset((*own.cues(*own.groups), *own.stimuli.values()))


def _made(read: _File, source: str, own: Bank | None = None) -> Bank:
    """The cues of a file, those of `own` beside them for what it leaves open."""
    groups = {}
    for name, group in read.bank.items():
        like = own.groups[name][0] if own else Cue(id="", text="")
        groups[name] = tuple(
            Cue(
                id=f"{name}-{number}",
                text=text,
                emotion=name if name in EKMAN else "",
                valence=group.valence or like.valence,
                demand=like.demand if group.demand is None else group.demand,
                source=source,
            )
            for number, text in enumerate(group.texts, 1)
        )
    stimuli = {s.id: Cue(**s.model_dump(), source=source) for s in read.stimuli}
    return Bank(groups=groups, stimuli=stimuli)


def leaked(cue: str, reply: str, visible: Sequence[str] = ()) -> str:
    """The words of a cue that a reply repeats, "" for none; words of the visible dialogue may be.

    Short cues count as a whole, others by runs of `LEAK` words.
    """
    said = _plain(reply)
    found = [gram for gram in _grams(cue) if gram in said]
    if not found:
        return ""
    open_ = " ".join(map(_plain, visible))
    return next((gram.strip() for gram in found if gram not in open_), "")


@lru_cache(KEPT)
def _plain(text: str) -> str:
    """The words of a text in small letters, a space around each."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


@lru_cache(KEPT)
def _grams(text: str) -> tuple[str, ...]:
    """What betrays a text: runs of its words, with a space around."""
    words = _plain(text).split()
    n = min(LEAK, len(words))
    return tuple(f" {' '.join(words[i : i + n])} " for i in range(len(words) - n + 1) if n)
