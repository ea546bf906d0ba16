"""Cue banks: short phrases given to a policy about its own draft, and their controls."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from heartloop.errors import InvalidInput
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


@cache
def _data() -> dict[str, Any]:
    text = files("heartloop.policy.loops").joinpath("cues.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def bank(*groups: str) -> tuple[Cue, ...]:
    """The cues of some groups: emotions of `EKMAN`, "neutral", "demand" or "random".

    Raises:
        InvalidInput: there is no such group.
    """
    known = _data()["bank"]
    if lost := set(groups) - known.keys():
        raise InvalidInput(f"expected cue groups among {', '.join(known)}, got {sorted(lost)}")
    return tuple(
        Cue(
            id=f"{group}-{number}",
            text=text,
            emotion=group if group in EKMAN else "",
            valence=known[group]["valence"],
            demand=known[group].get("demand", False),
        )
        for group in groups
        for number, text in enumerate(known[group]["texts"], 1)
    )


def stimuli(path: str | Path | None = None) -> dict[str, Cue]:
    """The eleven stimuli of EmotionPrompt by number, in own words or as a file gives them.

    Args:
        path: A JSON file with the published texts: {"source", "stimuli": [{"id", "text",
            "demand"}]}, where a demand that begins with "none" is none.

    Raises:
        InvalidInput: the file cannot be read as such.
    """
    if path is None:
        rows = [Cue(**row) for row in _data()["stimuli"]]
        return {cue.id: cue for cue in rows}
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        return {
            row["id"]: _published(row, read.get("source", str(path))) for row in read["stimuli"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f'expected a JSON file with "stimuli", each of id, text and demand, got {str(path)!r}'
            f" ({type(error).__name__}: {error})"
        ) from error


def _published(row: dict[str, Any], source: str) -> Cue:
    demand = not row["demand"].startswith("none")
    return Cue(id=row["id"], text=row["text"], demand=demand, source=source)


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
def _grams(text: str) -> list[str]:
    """What betrays a text: runs of its words, with a space around."""
    words = _plain(text).split()
    n = min(LEAK, len(words))
    return [f" {' '.join(words[i : i + n])} " for i in range(len(words) - n + 1)] if n else []
