"""What a helper can do in one turn: authored acts, worded from the visible dialogue."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from random import Random

from heartloop.errors import unknown
from heartloop.policy import wording
from heartloop.policy.wording import Material
from heartloop.simusers.phrases import words
from heartloop.types import Message

_PART = re.compile(r"<(\w+)>")
_SLOT = re.compile(r"\{(\w+)\}")
_FALLBACK = {
    "clause": (
        "it keeps going round in you", "you have not come to rest since", "it is still there",
    ),
    "deed": ("you are still standing there", "you found words for it", "you told it straight"),
    "thing": ("what happened", "all of this", "the whole story"),
    "who": ("the other person", "the other side"),
}  # fmt: skip
LONGEST = 28
"""Words of a reply; a longer draft is drawn again."""
_DRAWS = 6


@cache
def _data() -> dict[str, dict[str, list[str]]]:
    text = files("heartloop.policy").joinpath("acts.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    data["parts"] |= data["parts"].pop("poor")
    return data


def good() -> tuple[str, ...]:
    """The acts that take up the person's own words."""
    return tuple(_data()["good"])


def poor() -> tuple[str, ...]:
    """The acts that do not."""
    return tuple(_data()["poor"])


def templates(act: str) -> Sequence[str]:
    """The templates of an act.

    Raises:
        UnknownName: there is no such act.
    """
    table = _data()["good"] | _data()["poor"]
    if act not in table:
        raise unknown("act", act, table)
    return table[act]


def say(act: str, history: Sequence[Message], rng: Random) -> str:
    """One reply that does `act`, unlike the earlier replies of the dialogue."""
    return fill(templates(act), history, rng)


def fill(
    lines: Sequence[str], history: Sequence[Message], rng: Random,
    *, extra: Mapping[str, str] | None = None, parts: Mapping[str, Sequence[str]] | None = None,
    longest: int = LONGEST,
) -> str:  # fmt: skip
    """Draw one of `lines`, expand its parts and fill its slots.

    Args:
        lines: Templates.
        history: The visible dialogue, which fills the slots.
        rng: Draws.
        extra: Values of further slots.
        parts: Further parts.
        longest: Words from which a draft is disfavoured.
    """
    known = {**_data()["parts"], **(parts or {})}
    heard = list(wording.replies(history))
    found = wording.material(history, rng)
    best, cost = "", 1e9
    for _ in range(_DRAWS):
        draft = _draw(_expanded(lines, known, found, rng), found, heard, rng, extra or {})
        price = _staleness(draft, heard) + max(0, len(draft.split()) - longest)
        if price < cost:
            best, cost = draft, price
        if cost == 0:
            break
    return best


def _expanded(
    lines: Sequence[str], parts: Mapping[str, Sequence[str]], found: Material, rng: Random
) -> str:
    """One of the lines the dialogue can fill, with its parts drawn."""
    usable = [x for x in lines if _fits(x, found)] or list(lines)
    text = rng.choice(usable)
    while part := _PART.search(text):
        text = text[: part.start()] + rng.choice(parts[part[1]]) + text[part.end() :]
    return text


def _draw(
    text: str, found: Material, heard: Sequence[str], rng: Random, extra: Mapping[str, str]
) -> str:
    """The text with its slots filled."""
    chosen = dict(extra)
    for slot in _SLOT.findall(text):
        if slot not in chosen:
            chosen[slot] = _slot(slot, found, heard, rng)
    return wording.tidy(_SLOT.sub(lambda m: chosen[m[1]], text))


def _fits(line: str, found: Material) -> bool:
    """Whether the dialogue offers what the line takes up."""
    wants = set(_SLOT.findall(line))
    have = {"clause": found.clauses, "deed": found.deeds, "thing": found.things}
    return all(have[slot] for slot in wants & set(have))


def _slot(slot: str, found: Material, heard: Sequence[str], rng: Random) -> str:
    if slot in ("adj", "noun"):
        return found.feeling.adjective if slot == "adj" else found.feeling.noun
    offered = {
        "clause": found.clauses, "deed": found.deeds, "thing": found.things, "who": found.people,
    }[slot]  # fmt: skip
    said = " ".join(heard).lower()
    fresh = [x for x in offered if slot == "who" or x.lower() not in said] or list(offered)
    fresh = fresh or list(_FALLBACK[slot])
    return fresh[min(int(rng.expovariate(1.3)), len(fresh) - 1)]


def _staleness(draft: str, heard: Sequence[str]) -> float:
    """Rows of three words said before, and the same opening."""
    own = _grams(draft)
    again = max((len(own & _grams(h)) for h in heard), default=0)
    return again + 2.0 * any(words(h)[:2] == words(draft)[:2] for h in heard)


def _grams(text: str) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)}
