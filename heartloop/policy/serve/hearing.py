"""What the scripted brain hears in a reply: features that hold in English and Chinese alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CHINESE = re.compile(r"[\u3400-\u9fff]+")
_WORD = re.compile(r"[^\W\d_\u3400-\u9fff]+")
_COMMON = frozenset(
    """about after again always because been before being could does doing from have into just like
    more much only really should some still than that their them then there these they thing things
    this those very want were what when where which while will with would your yours youre dont
    sounds know make made feel""".split()
)
"""English words too common to count as taken up."""
_PARTICLES = frozenset("的了是我你他她它们在不就也都很这那吗呢吧么什有和啊哦嗯把被让给会要说")
"""Chinese characters that bind others and carry little themselves."""
GAIN, BASE = 6.0, -2.5
"""Points that taking up the person's words can earn, and what a reply without any costs."""
LONG, SHORT = 110.0, 4.0
"""Words above which nobody reads on, and below which it is no answer."""


def grams(text: str) -> frozenset[str]:
    """Content words of a text, and the character pairs of its Chinese runs."""
    latin = {w for w in _WORD.findall(text.lower()) if len(w) > 3 and w not in _COMMON}
    pairs = {run[i : i + 2] for run in _CHINESE.findall(text) for i in range(len(run) - 1)}
    return frozenset(latin | {pair for pair in pairs if _PARTICLES.isdisjoint(pair)})


def size(text: str) -> float:
    """Length in words; a Chinese word has about 1.6 characters."""
    return len(_WORD.findall(text)) + sum(map(len, _CHINESE.findall(text))) / 1.6


def hear(reply: str, said: Sequence[str], heard: Sequence[str]) -> dict[str, float]:
    """Points of change by feature; only what was found.

    Args:
        reply: What is heard.
        said: The person's messages, oldest first.
        heard: Earlier replies.
    """
    if not reply.strip():
        return {"empty": -10.0}
    if _is_garbled(reply):
        return {"garbled": -8.0}
    if any(_is_same(reply, earlier) for earlier in heard):
        return {"repeat": -7.0}
    if said and _is_echo(reply, said[-1]):
        return {"echo": -5.0}
    points = {"uptake": _uptake(reply, said), "size": _size(reply), "question": _question(reply)}
    return {name: value for name, value in points.items() if value}


def kind(points: dict[str, float]) -> str:
    """The feature that stands out, as `brain.toml` names it."""
    for fault in ("empty", "garbled", "repeat", "echo"):
        if fault in points:
            return fault
    if points.get("size", 0) < 0:
        return "long" if points["size"] == -4 else "short"
    if points.get("uptake", 0) <= 0:
        return "missed"
    return "asked" if points.get("question", 0) > 0 else "met"


def _uptake(reply: str, said: Sequence[str]) -> float:
    known = frozenset[str]().union(*map(grams, said))
    return GAIN * (1 - 0.7 ** len(grams(reply) & known)) + BASE


def _size(reply: str) -> float:
    words = size(reply)
    return -4.0 if words > LONG else -3.0 if words < SHORT else 1.0


def _question(reply: str) -> float:
    asked = reply.count("?") + reply.count("\uff1f")
    return 1.5 if asked == 1 else -3.0 if asked > 2 else 0.0


def _is_garbled(reply: str) -> bool:
    """Mostly signs, or a few words over and over."""
    solid = re.sub(r"\s", "", reply)
    words = _WORD.findall(reply.lower()) + re.findall(r"[\u3400-\u9fff]", reply)
    stutter = len(words) >= 8 and len(set(words)) < 0.4 * len(words) and size(reply) < LONG
    return sum(c.isalpha() for c in solid) < 0.5 * len(solid) or stutter


def _is_same(reply: str, other: str) -> bool:
    if reply.split() == other.split():
        return True
    one, two = grams(reply), grams(other)
    return len(one) >= 3 and len(one & two) > 0.7 * len(one | two)


def _is_echo(reply: str, last: str) -> bool:
    own, theirs = grams(reply), grams(last)
    both = len(own & theirs)
    return both >= 3 and both > 0.8 * len(own) and both > 0.7 * len(theirs)
