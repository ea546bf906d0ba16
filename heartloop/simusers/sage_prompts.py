"""What the SAGE user sends to its model: authored instructions, and a dialogue as data.

The instructions lie in `prompts/<language>/*.md`. They are the system message; everything that
changes from turn to turn is the user message, in tagged blocks. What a policy said can neither
close a block nor open one.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from heartloop.emotion import band
from heartloop.errors import InvalidInput
from heartloop.types import Message, Scenario

VERSION = 1
"""Of all prompt files together; part of every user id, as each wording scores differently."""

Call = Literal["appraise", "reply", "turn", "open"]
Style = Literal["evaluator", "trainer", "single"]
LANGUAGES = ("en", "zh")

_FILES: dict[Call, str] = {
    "appraise": "appraise",
    "reply": "reply",
    "turn": "single",
    "open": "open",
}
_SPEAKERS = {"user": "user", "assistant": "partner"}
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories that a reader does not see, or that a terminal obeys."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What one call is about."""

    scenario: Scenario
    emotion: float
    language: str
    history: Sequence[Message] = ()
    """The visible dialogue; ends with the policy's reply, or is empty before the opener."""
    feeling: Mapping[str, str] = field(default_factory=dict)
    """How the reply was received; only the reply call has one."""


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in the place of {{names}}, in one pass: what is put in is never scanned."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def escape(text: str) -> str:
    r"""Write tag brackets and what cannot be seen as \uXXXX; line breaks stay."""
    if text.replace("\n", "").isprintable() and "<" not in text and ">" not in text:
        return text  # nearly every text; character by character costs half of a call's time
    return "".join(_coded(c) if _must_be_coded(c) else c for c in text)


def _must_be_coded(char: str) -> bool:
    return char in "<>" or (char != "\n" and unicodedata.category(char) in _HIDDEN)


def _coded(char: str) -> str:
    return json.dumps(char)[1:-1] if char not in "<>" else f"\\u{ord(char):04x}"


def quote(value: Any) -> str:
    """One line of JSON that holds no tag and nothing invisible, and decodes to the value."""
    return escape(json.dumps(value, ensure_ascii=False))


def messages(call: Call, style: Style, moment: Moment) -> list[Message]:
    """The two messages of a call: instructions, and the moment as tagged blocks."""
    return [
        Message(role="system", content=instructions(call, style, moment.language)),
        Message(role="user", content=_blocks(call, moment)),
    ]


def digest(sent: Iterable[Message]) -> str:
    """SHA-256 of what was sent."""
    rows = [[message.role, message.content] for message in sent]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@cache
def instructions(call: Call, style: Style, language: str) -> str:
    """The system message of a call.

    Raises:
        InvalidInput: there are no prompts in that language.
    """
    variant = "trainer" if style == "trainer" else "evaluator"
    parts = {name: _read(language, f"{name}.{variant}.md") for name in ("steps", "task", "manner")}
    parts["input"] = _read(language, "input.md")
    return fill(_read(language, f"{_FILES[call]}.md"), parts)


@cache
def _read(language: str, name: str) -> str:
    if language not in LANGUAGES:
        raise InvalidInput(
            f"prompts are written in {LANGUAGES}, got {language!r}: choose one with language=..."
        )
    place = files("heartloop.simusers").joinpath("prompts", language, name)
    return place.read_text(encoding="utf-8").strip()


@cache
def _words(language: str) -> dict[str, dict[str, str]]:
    return tomllib.loads(_read(language, "words.toml"))


def _blocks(call: Call, moment: Moment) -> str:
    said = [{"speaker": _SPEAKERS[m.role], "text": m.content} for m in moment.history]
    last = said.pop()["text"] if said else ""
    words = _words(moment.language)
    blocks = {
        "call": call,
        "language": moment.language,
        "persona": _persona(moment.scenario, words),
        "situation": _situation(moment.scenario, words),
        "hidden_goal": _goal(moment.scenario, words),
        "emotion": f"{moment.emotion:g}",
        "state": band(moment.emotion).value,
        "dialogue": quote(said),
        "last_reply": quote(last),
    }
    if moment.feeling:
        blocks["feeling"] = quote(dict(moment.feeling))
    return "\n".join(f"<{tag}>{_body(text)}</{tag}>" for tag, text in blocks.items())


def _body(text: str) -> str:
    """Long texts stand on lines of their own."""
    return f"\n{text}\n" if "\n" in text else text


def _persona(scenario: Scenario, words: dict[str, dict[str, str]]) -> str:
    person = scenario.persona
    return _lines(
        words["persona"],
        name=person.name,
        age=str(person.age or ""),
        gender=words["genders"].get(person.gender, person.gender),
        occupation=person.occupation,
        hobbies=_list(person.hobbies),
        habits=person.habits,
        style=person.style,
        traits=_list(scenario.traits),
        type=words["groups"][scenario.group],
    )


def _situation(scenario: Scenario, words: dict[str, dict[str, str]]) -> str:
    story = scenario.situation
    told = {moment.what for moment in story.timeline}
    return _lines(
        words["situation"],
        title=story.title,
        who=story.who,
        cause=story.cause,
        timeline=_list(f"{m.when}: {m.what}" if m.when else m.what for m in story.timeline),
        facts=_list(fact for fact in story.facts if fact not in told),
        conflict=story.conflict,
        tried=story.tried,
        stuck=story.stuck,
        felt=scenario.felt,
        display=words["display"][scenario.display],
    )


def _goal(scenario: Scenario, words: dict[str, dict[str, str]]) -> str:
    goal = words["goals"][scenario.goal]
    return _lines(words["hidden_goal"], goal=goal, needs=_list(scenario.needs))


def _list(items: Iterable[str]) -> str:
    return "".join(f"\n- {item}" for item in items)


def _lines(labels: Mapping[str, str], **texts: str) -> str:
    """One labelled line (or list) for each text that there is."""
    rows = ((labels[name], text) for name, text in texts.items() if text)
    return "\n".join(f"{label}:{_gap(text)}{escape(text)}" for label, text in rows)


def _gap(text: str) -> str:
    return "" if text.startswith("\n") else " "
