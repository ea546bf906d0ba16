"""Simulated users by name, or by the id that an episode carries."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from heartloop.errors import InvalidInput, unknown
from heartloop.simusers import dynamics
from heartloop.simusers.base import SimUser
from heartloop.simusers.dynamics import Preset
from heartloop.types import Episode

if TYPE_CHECKING:
    from heartloop.llm import ChatModel

STYLES = {"sage": "evaluator", "sage-trainer": "trainer", "sage-single": "single"}
"""Users that a model plays, by the style of their prompts."""
USERS = ("embedded", *STYLES)
"""Names; those of `STYLES` are followed by a model, as in "sage:openai:NAME@URL"."""
_SPEC = re.compile(r"(?P<name>[\w-]+)(?P<options>(?:,[a-z]+=[^,:]*)*)(?::(?P<model>.*))?", re.S)
_ID = re.compile(r"sage/[\d.]+:(?P<style>\w+)(?P<options>(?:,[a-z]+=[^,+]*)*)\+(?P<model>.*)", re.S)
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "samples": int,
    "retries": int,
    "temperature": float,
    "expected": lambda text: {"True": True, "true": True, "False": False, "false": False}[text],
    "language": str,
}
"""Settings of a SAGE user, as in "sage,samples=3,temperature=0.7:openai:NAME@URL"."""
AT_ONCE = 64
"""Dialogues of a user played by a model that are under way at a time."""


def make_user(user: str, preset: Preset | str = "default") -> SimUser:
    """A simulated user by name ("embedded", "sage:MODEL") or id ("embedded/1.2+lexical/1").

    The version in an id is not looked at: the user made is of the present version, and says so in
    its own id.

    Raises:
        UnknownName: no such user, option, model or preset.
        InvalidInput: the model is missing, or a setting is wrong.
    """
    rules = dynamics.preset(preset) if isinstance(preset, str) else preset
    if user.partition("/")[0] == "embedded":
        return _embedded(rules)
    style, options, model = _parsed(user)
    from heartloop.llm import make_model

    return _sage(make_model(model), rules, style, options)


def reader_of(episode: Episode, rules: Preset) -> SimUser:
    """The user of an episode made anew; where a model played it, the recorded answers do.

    No model is ever loaded, since the file may be anybody's.

    Raises:
        InvalidInput: the episode names no user by its id, or its record cannot be read.
    """
    if episode.user.startswith("embedded/"):
        return _embedded(rules)
    found = _ID.fullmatch(episode.user)
    if not found:
        raise InvalidInput(
            "expected the id of a simulated user, as in 'embedded/1.2+lexical/1' or "
            f"'sage/1.1:evaluator+openai:NAME@URL', got {episode.user!r:.200}: "
            "rescore the episode with a user of this version"
        )
    from heartloop.simusers.recorded import RecordedAnswers

    model = RecordedAnswers(episode, found["model"])
    return _sage(model, rules, found["style"], _settings(found["options"]))


def at_once(user: str) -> int:
    """How many dialogues of such users should be under way at a time: 1 where none waits."""
    return 1 if user.partition("/")[0] == "embedded" else AT_ONCE


def _embedded(rules: Preset) -> SimUser:
    from heartloop.simusers.embedded import EmbeddedUser

    return EmbeddedUser(rules)


def _sage(model: ChatModel, rules: Preset, style: str, options: dict[str, Any]) -> SimUser:
    from heartloop.simusers.sage import SageUser

    return SageUser(model, rules, style, **options)  # type: ignore[arg-type]  # checked by it


def _parsed(user: str) -> tuple[str, dict[str, Any], str]:
    """Style, settings and model of a user that a model plays."""
    if found := _ID.fullmatch(user):
        return found["style"], _settings(found["options"]), found["model"]
    found = _SPEC.match(user)
    name = found["name"] if found else user
    if not found or name not in STYLES:
        raise unknown("simulated user", name, USERS)
    if found.end() < len(user) or not found["model"]:
        raise InvalidInput(
            f"user {user!r} needs a model, as in {name}:openai:NAME@URL, with options before it, "
            f"as in {name},samples=3:openai:NAME@URL"
        )
    return STYLES[name], _settings(found["options"]), found["model"]


def _settings(text: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for setting in text.split(",")[1:]:
        name, _, value = setting.partition("=")
        if name not in _OPTIONS:
            raise unknown("setting of a SAGE user", name, _OPTIONS)
        if name in settings:
            raise InvalidInput(f"user setting {setting!r} is given twice: keep one of them")
        try:
            settings[name] = _OPTIONS[name](value)
        except (ValueError, KeyError):
            raise InvalidInput(f"user setting {setting!r} has a wrong value") from None
    return settings
