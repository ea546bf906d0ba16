"""Care for the person at the keyboard: saying that it is a program, and whom to call.

The texts shown are fixed ones of `care.toml`; `risk.py` finds the words of acute risk.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from heartloop.chat.risk import Level, Risk, language, risk, risk_of_another, sentences
from heartloop.errors import unknown

__all__ = [
    "Level", "Risk", "ai_notice", "asks_if_ai", "language", "referral", "referrals", "region",
    "regions", "risk", "risk_of_another",
]  # fmt: skip

INTERNATIONAL = "international"


@cache
def _data() -> dict[str, Any]:
    text = files("heartloop.chat").joinpath("care.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def ai_notice(text: str = "") -> str:
    """The statement that this is a program, in the language of `text`."""
    notice: str = _data()["ai"][language(text)]
    return notice


def asks_if_ai(text: str) -> bool:
    """Whether a message asks what it is talking with."""
    return any(
        re.search(pattern, sentence.text.strip())
        for sentence in sentences(text)
        for pattern in _data()["asks_if_ai"][sentence.script]
    )


def region(environment: Mapping[str, str] = os.environ) -> str:
    """The region that the language settings of the system name, or "international"."""
    settings = (environment.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    setting = next(filter(None, settings), "")
    found = re.match(r"[a-z]{2,3}_([A-Za-z]{2})\b", setting)
    return _line_of(found[1].lower()) or INTERNATIONAL if found else INTERNATIONAL


def regions() -> tuple[str, ...]:
    """The regions whose lines are known."""
    return tuple(_data()["lines"])


def referrals(text: str, place: str) -> list[str]:
    """The fixed texts that a message calls for: about the writer, about somebody else, or both."""
    own, another = risk(text), risk_of_another(text)
    found = [referral(place, own.language)] if own else []
    return found + ([referral(place, another, "concern")] if another else [])


def referral(place: str, script: str, about: str = "referral") -> str:
    """The fixed text that leads to people who can help.

    Args:
        place: A region or a country's two letters.
        script: "en" or "zh".
        about: "referral" for the writer, "concern" for somebody near the writer.

    Raises:
        UnknownName: no line is known for the place.
    """
    line = _line_of(place.lower())
    if line is None:
        raise unknown("region", place, regions())
    lines = [_data()["lines"][name][script] for name in dict.fromkeys((line, INTERNATIONAL))]
    text: str = _data()[about][script]
    return text.strip().replace("{lines}", "\n".join(f"- {line}" for line in lines))


def _line_of(place: str) -> str | None:
    """The region whose line serves a place."""
    if place in regions():
        return place
    return next((name for name, places in _data()["groups"].items() if place in places), None)
