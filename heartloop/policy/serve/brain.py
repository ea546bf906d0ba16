"""A scripted brain for simulated users backed by a model: answers their calls without a model.

It serves tests and dry runs of the SAGE protocol (arXiv 2505.02847) in English and Chinese. The
momentum of its changes leans on the published trajectories; the rest is plain and deterministic.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, permutations
from random import Random
from typing import Any

from heartloop.emotion import Band, band
from heartloop.errors import InvalidInput, unknown
from heartloop.policy.serve.hearing import hear, kind

ID = "brain/1"
CALLS = ("appraise", "reply", "turn", "open")
LANGUAGES = ("en", "zh")
MOMENTUM, TEMPER = 4.0, 2.0
"""Points of change between the middle and the top of the scale, and SD of the day's temper."""
_LEAST, _LONGEST = 4, 120
"""Characters of a piece of the situation."""
_LABEL = re.compile(r"^\W*(?:[^\W\d][\w ]{0,19}[:\uff1a]\s*)?")
_END = re.compile(r"[.!?;\u3002\uff01\uff1f\uff1b](?=\s|$)|[\u3002\uff01\uff1f\uff1b]")


@dataclass(frozen=True, slots=True)
class Call:
    """What a prompt asks."""

    kind: str
    language: str
    emotion: float
    pieces: tuple[str, ...] = ()
    """Short statements from the situation."""
    said: tuple[str, ...] = ()
    """The person's messages, oldest first."""
    heard: tuple[str, ...] = ()
    """The partner's messages before the last."""
    last: str = ""
    """The partner's last message."""

    def rng(self, seed: int, purpose: str) -> Random:
        """A stream of its own for each seed, purpose and state of the dialogue."""
        key = json.dumps([seed, purpose, self.said, self.heard, self.last])
        return Random(hashlib.sha256(key.encode()).hexdigest())


def read(prompt: str) -> Call:
    """The call that a prompt holds in its `<name>...</name>` blocks.

    Raises:
        InvalidInput: a block is missing or cannot be read.
    """
    asked = _one_of("call", prompt, CALLS)
    turns = _json("dialogue", prompt, "[]")
    last = _json("last_reply", prompt, None if asked in ("appraise", "turn") else '""')
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise _unread("dialogue", 'a list of {"speaker": "user" or "partner", "text": ...}', turns)
    if not isinstance(last, str):
        raise _unread("last_reply", "a string", last)
    heard = [t["text"] for t in turns if t["speaker"] == "partner"]
    return Call(
        asked,
        _one_of("language", prompt, LANGUAGES),
        _number(_block("emotion", prompt, "40" if asked == "open" else None)),
        tuple(_pieces(_block("situation", prompt, ""))),
        tuple(t["text"] for t in turns if t["speaker"] == "user"),
        tuple(heard[:-1] if heard and heard[-1] == last else heard),
        last,
    )


def _block(name: str, prompt: str, default: str | None) -> str:
    start = re.search(rf"^<{name}>", prompt, re.MULTILINE)
    end = re.compile(rf"</{name}>[ \t]*$", re.MULTILINE).search(prompt, start.end() if start else 0)
    if start and end:
        return prompt[start.end() : end.start()].strip()
    if default is None:
        raise InvalidInput(
            f"expected a line <{name}>...</{name}> in the prompt, found none: add it; this model "
            "answers calls of simulated users only"
        )
    return default


def _one_of(name: str, prompt: str, known: tuple[str, ...]) -> str:
    value = _block(name, prompt, None)
    if value not in known:
        raise unknown(name, value, known)
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise _unread("emotion", "a number from 0 to 100", text)
    return value


def _json(name: str, prompt: str, default: str | None) -> Any:
    text = _block(name, prompt, default)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unread(name, "JSON", text) from error


def _unread(name: str, expected: str, got: object) -> InvalidInput:
    return InvalidInput(f"expected {expected} in <{name}>, got {got!r:.80}: mend the prompt")


def _is_turn(row: object) -> bool:
    return (
        isinstance(row, dict)
        and row.get("speaker") in ("user", "partner")
        and isinstance(row.get("text"), str)
    )


def _pieces(situation: str) -> Iterator[str]:
    """The first sentence of each line, without bullet, label and full stop."""
    for line in situation.splitlines():
        text = _END.split(_LABEL.sub("", line.strip(), count=1), maxsplit=1)[0].strip(" .,:!?'\"")
        if len(text) > _LONGEST:
            text = text[:_LONGEST].rsplit(" ", 1)[0] + "\u2026"
        if len(text) >= _LEAST:
            yield text


def answer(call: Call, seed: int) -> dict[str, Any]:
    """The fields of the answer, in order."""
    if call.kind == "appraise":
        return _appraised(call, seed)
    if call.kind == "turn":
        row = _appraised(call, seed)
        after = max(0.0, min(100.0, call.emotion + row["change"]))
        return row | _replied(call, seed, after)
    return _replied(call, seed, call.emotion)


def labelled(row: dict[str, Any]) -> str:
    """The answer as labelled text, one field a line."""
    return "\n".join(f"{name.capitalize()}: {_flat(value)}" for name, value in row.items())


def as_json(row: dict[str, Any]) -> str:
    """The answer as a JSON object."""
    return json.dumps(row, ensure_ascii=False)


def _flat(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split())


@cache
def _texts() -> dict[str, Any]:
    text = files("heartloop.policy.serve").joinpath("brain.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _appraised(call: Call, seed: int) -> dict[str, Any]:
    """What the last reply does to the emotion, and why."""
    points = hear(call.last, call.said, call.heard)
    felt = sum(points.values()) + MOMENTUM * (call.emotion - 45) / 55
    felt += call.rng(seed, "temper").gauss(0.0, TEMPER)
    change = max(-10, min(10, round(felt)))
    way = "up" if change > 0 else "down" if change < 0 else "flat"
    texts = _texts()[call.language]
    told = {name: texts[name][way] for name in ("completion", "activity", "analysis")}
    return {"content": texts["content"][kind(points)], **told, "change": change}


def _replied(call: Call, seed: int, emotion: float) -> dict[str, Any]:
    """What the person says at an emotion."""
    level, texts = band(emotion), _texts()[call.language]
    state = "open" if call.kind == "open" else level.value
    draft, reply = _words(call, call.rng(seed, "voice"), texts["lines"][state], texts["joint"])
    return {
        "thinking": texts["thinking"][state],
        "draft": draft,
        "reply": reply,
        "shown": _texts()["shown"][level.value],
        "farewell": state != "open" and level in (Band.S, Band.F),
    }


def _words(call: Call, rng: Random, lines: list[str], joint: str) -> tuple[str, str]:
    """A draft and a reply that the person has not said before, new pieces first."""
    before = "\n".join(call.said)
    plain = [line for line in lines if "{piece}" not in line]
    framed = [(line, piece) for line in lines if line not in plain for piece in call.pieces]
    told = [line.replace("{piece}", piece) for line, piece in framed]
    fresh = [text for text, (_, piece) in zip(told, framed, strict=True) if piece not in before]
    for texts in (plain, fresh):
        rng.shuffle(texts)
    first = [*plain, *fresh[:2]]
    rng.shuffle(first)
    joined = (joint.join(some) for n in (2, 3) for some in permutations([*plain, *told], n))
    unsaid = (text for text in chain(first, fresh, joined) if text not in call.said)
    reply = next(unsaid, None)
    if reply is None:
        raise InvalidInput(
            f"expected a dialogue shorter than {len(call.said)} messages: no words are left"
        )
    return next(unsaid, reply), reply
