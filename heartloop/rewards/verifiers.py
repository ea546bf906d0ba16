"""Verifiers by name: rules, a model that grades facts, functions of one's own."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from heartloop.errors import InvalidInput, unknown
from heartloop.llm import make_model
from heartloop.rewards.answers import VERIFIERS, Question, Verifier
from heartloop.rewards.fact_judge import FactJudge
from heartloop.types import Score

JUDGED = "fact"
"""With a model behind it, that grades; alone, the rule."""


def verifier(spec: str) -> Verifier:
    """The verifier of that name, a model that grades facts, or a function of one's own.

    Args:
        spec: One of `VERIFIERS`; "fact:" with a model, as in "fact:openai:NAME@URL"; or the import
            path "module:function" of what takes a Question and the whole answer, and returns a
            float, a bool, a Score, or None for "could not be checked".

    Raises:
        UnknownName: there is none of that name, or no such back end of models.
        InvalidInput: the path or the model's spec is malformed, or there is nothing under it.
        MissingExtra: the model's back end is not installed.
    """
    name, colon, rest = spec.partition(":")
    if not colon:
        if spec not in VERIFIERS:
            raise unknown("verifier", spec, VERIFIERS)
        return VERIFIERS[spec]
    return FactJudge(make_model(rest)) if name == JUDGED else _own(spec)


@dataclass(frozen=True)
class Own:
    """A plain function as a verifier."""

    name: str
    function: Callable[[Question, str], Any]
    id: str
    """The path with a digest of the function's code as it was loaded; not of what that calls."""

    def __call__(self, question: Question, text: str) -> Score:
        """What the function returns, as a score."""
        try:
            result = self.function(question, text)
            if isinstance(result, Score):
                return result
            value = math.nan if result is None else float(result)
        except Exception as error:
            raise InvalidInput(
                f"verifier {self.name!r} failed on question {question.id!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not math.isfinite(value):
            return Score(value=None, why=f"{self.name} gave {result!r}")
        return Score(value=value)


@cache  # what stands on the disk later is not what runs
def _own(spec: str) -> Own:
    function = _imported(spec)
    return Own(spec, function, f"{spec}/{_digest(function)}")


def _digest(function: Callable[..., Any]) -> str:
    """Of a function's code, or "unknown" where that cannot be read."""
    try:
        code = inspect.getsource(function).encode()
    except (OSError, TypeError):
        return "unknown"
    return hashlib.sha256(code).hexdigest()[:12]


def _imported(spec: str) -> Callable[[Question, str], Any]:
    module_name, _, attribute = spec.partition(":")
    try:
        found = getattr(import_module(module_name), attribute, None)
    except Exception as error:
        raise InvalidInput(
            f"cannot import {module_name!r} for verifier {spec!r}: {error}"
        ) from error
    if not callable(found):
        raise InvalidInput(f"{module_name!r} has no function {attribute!r} (verifier {spec!r})")
    return found  # type: ignore[no-any-return]
