"""Reading what the model behind a SAGE user answered: its forms, and a strict parser.

An answer is one JSON object and nothing else, or labelled text from its first word (as in published
SAGE transcripts): whatever stands in prose may be a quotation. A number that is missing, not finite
or given in two versions is a failure and never a score.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError, WithJsonSchema

from heartloop.errors import CallFailure, InvalidInput
from heartloop.llm.base import TokenLogprob
from heartloop.types import Value

Form = Literal["appraise", "reply", "turn"]
REACH = 100.0
"""No change can be larger than the scale of the emotion itself."""
FAINT = -100.0
"""Log-probability of what a server calls impossible; JSON holds no infinity."""


def clean(text: str) -> str:
    """A text as it may be shown: one line, no terminal sequences, nothing invisible."""
    text = _ANSI.sub("", text)
    seen = (" " if c.isspace() else c for c in text if not _is_hidden(c))
    return " ".join("".join(seen).split())


_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")


def _is_hidden(char: str) -> bool:
    return not char.isspace() and unicodedata.category(char) in {"Cc", "Cf", "Co", "Cs"}


def _utterance(value: object) -> object:
    """What the person says, out of the quotes that models like to put around it."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    for left, right in ('""', "“”", "「」", "[]", "{}"):
        inner = text[1:-1]
        if text.startswith(left) and text.endswith(right) and not set(inner) & {left, right}:
            text = inner.strip()
    if not text:
        raise ValueError("the reply is empty")
    return text


def number(value: object) -> float:
    """The one signed number that a value states, within the scale of the emotion.

    Raises:
        ValueError: no number, more than a number, or one that is not finite.
    """
    if isinstance(value, str):
        stated = _NUMBER.fullmatch(value.translate(_SIGNS).strip(_DECORATION))
        if not stated:
            raise ValueError(f"expected one number, got {value[:80]!r}")
        value = float("".join(stated["n"].split()))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}")
    return float(max(-REACH, min(REACH, value)))


_MINUS = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d"
_SIGNS = str.maketrans(dict.fromkeys(_MINUS, "-") | {"\uff0b": "+", "\uff0e": "."})
"""A sign that is not known for one would turn a loss into a gain."""
_DECORATION = " \t\n*[]\u3010\u3011\"'"
_NUMBER = re.compile(
    r"(?P<n>[+-]?\s?(?:\d+(?:\.\d+)?|\.\d+))(?:\s*(?:points?|\u5206))?\s*[.\u3002]?", re.IGNORECASE
)


def _yes(value: object) -> object:
    """Words for yes and no as truth values."""
    if isinstance(value, str):
        word = value.strip(" \n\t.*。").lower()
        if word not in _TRUTH:
            raise ValueError(f"expected true or false, got {value[:80]!r}")
        return _TRUTH[word]
    return value


_TRUTH = {
    **dict.fromkeys(("true", "yes", "是"), True),
    **dict.fromkeys(("false", "no", "否", "不是", ""), False),
}

_Change = Annotated[
    float,
    BeforeValidator(number),
    WithJsonSchema({"type": "integer", "minimum": -10, "maximum": 10}),
]


class Appraised(Value):
    """What the reply did to the person; only the number is needed to score."""

    content: str = ""
    completion: str = ""
    activity: str = ""
    analysis: str = ""
    change: _Change


class Spoken(Value):
    """What the person says next."""

    thinking: str = ""
    draft: str = ""
    reply: Annotated[str, BeforeValidator(_utterance)]
    shown: str = ""
    farewell: Annotated[bool, BeforeValidator(_yes)] = False


class Turned(Spoken, Appraised):
    """Both in one answer."""


FORMS: dict[Form, type[Appraised] | type[Spoken]] = {
    "appraise": Appraised,
    "reply": Spoken,
    "turn": Turned,
}
_ORDER: dict[Form, tuple[str, ...]] = {
    "appraise": tuple(Appraised.model_fields),
    "reply": tuple(Spoken.model_fields),
    "turn": (*Appraised.model_fields, *Spoken.model_fields),
}
"""Reasons come before the number and the words: a model that decides first only makes excuses."""


def schema(form: Form) -> dict[str, Any]:
    """The JSON schema of a form, every field required, in the order to answer in."""
    fields = FORMS[form].model_json_schema()["properties"]
    kept = {
        name: {key: rule for key, rule in fields[name].items() if key not in ("title", "default")}
        for name in _ORDER[form]
    }
    return {
        "title": form,
        "type": "object",
        "properties": kept,
        "required": list(kept),
        "additionalProperties": False,
    }


SCHEMAS: dict[Form, dict[str, Any]] = {form: schema(form) for form in FORMS}

_ALIASES = {
    "targetcompletion": "completion",
    "reason": "completion",
    "analyse": "analysis",
    "origin": "draft",
    "response": "reply",
}
_FIELDS = {name.lower(): name for names in _ORDER.values() for name in names} | _ALIASES
_LABEL = re.compile(
    r"^[ \t*#\[【\-]*(?:\d+[.)、][ \t*\[【]*)?"
    rf"(?P<label>{'|'.join(_FIELDS)})[ \t*\]】]*[:\uff1a][ \t*]*",
    re.IGNORECASE | re.MULTILINE,
)
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_PLUS = re.compile(r'("change"\s*:\s*)\+(?=\d)')
"""JSON knows no plus sign, models do. Within a string the quotes would be escaped."""


def parse(form: Form, raw: str) -> Appraised | Spoken:
    """The fields of an answer.

    Raises:
        CallFailure: it cannot be read, or could be read in two ways.
    """
    try:
        row = _answer(form, _PLUS.sub(r"\1", _THOUGHT.sub("", raw)))
        return FORMS[form].model_validate({k: row[k] for k in _ORDER[form] if k in row})
    except (ValidationError, ValueError, RecursionError) as error:
        raise CallFailure(
            f"expected {form!r} as JSON with {', '.join(_ORDER[form])}; {_reason(error)}; "
            f"got {excerpt(raw)!r}: ask again, or use a model that follows JSON schemas"
        ) from None


def excerpt(raw: str) -> str:
    """The beginning of a raw answer, for messages."""
    return clean(raw[:400])[:200]


def _answer(form: Form, text: str) -> dict[str, Any]:
    """The one object that a text is, or its labelled fields."""
    objects, rest = _objects(text)
    around = _FENCE.sub("", rest).strip()
    found = [*objects, _labelled(form, around)] if around else objects
    if len(found) != 1:
        raise ValueError(f"{len(found)} answers instead of one")
    if lacking := _NEEDED[form] - found[0].keys():
        raise ValueError(f"no {' and no '.join(sorted(lacking))}")
    return found[0]


_FENCE = re.compile(r"```\w*")
_NEEDED: dict[Form, set[str]] = {
    "appraise": {"change"},
    "reply": {"reply"},
    "turn": {"change", "reply"},
}


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors()
        )
    return str(error) or type(error).__name__


def _objects(text: str) -> tuple[list[dict[str, Any]], str]:
    """The JSON objects at the top level of a text, and the text around them.

    Nothing within a broken object is looked at, as it may be a quotation, and nothing around it
    either; only a brace that begins no object is a part of what the labels hold.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_fields, strict=False)
    found: list[dict[str, Any]] = []
    around, at = "", 0
    while (start := text.find("{", at)) >= 0:
        around += text[at:start]
        try:
            row, at = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            if _BEGUN.search(text, text.rfind("\n", 0, start) + 1):
                raise ValueError(f"broken JSON: {error}") from None
            return found, around + text[start:]
        found.append(row)
    return found, around + text[at:]


_BEGUN = re.compile(r"\{\s*(?:[\"']|\w+\s*:|\Z)|^[ \t]*\{", re.MULTILINE)


def _fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object by our field names; a field given in two versions is an error."""
    row: dict[str, Any] = {}
    for key, value in pairs:
        name = _FIELDS.get(key.strip().lower(), key)
        if name in row and row[name] != value:
            raise ValueError(f"{key!r} is given twice: {row[name]!r} and {value!r}")
        row[name] = value
    return row


def _labelled(form: Form, text: str) -> dict[str, Any]:
    """The fields of a text that begins with a label; what decides must not be given in two ways."""
    prose, *parts = _LABEL.split(text)
    if prose.strip(" \t\n*#-"):
        raise ValueError("there is text beside the answer")
    row: dict[str, Any] = {}
    for label, value in zip(parts[::2], parts[1::2], strict=True):
        name, value = _FIELDS[label.lower()], value.strip().strip("*").strip()
        if name in row and name in _NEEDED[form] | {"farewell"}:
            _agree(name, row[name], value)
        row[name] = value
    return row


def _agree(name: str, before: str, now: str) -> None:
    """Two versions of a field must say the same."""
    if before != now and (name != "change" or number(before) != number(now)):
        raise ValueError(f"{name!r} is given twice: {before[:80]!r} and {now[:80]!r}")


def number_tokens(tokens: Sequence[TokenLogprob], change: float) -> list[TokenLogprob]:
    """The tokens that spell the change of an answer, and the one behind them.

    Where none do, those of the last change that they state: their record fails as the answer did.

    Raises:
        InvalidInput: the answer came without log-probabilities.
    """
    if not any(token.top for token in tokens):
        raise InvalidInput(
            "expected=True needs log-probabilities, the answer has none: use an endpoint that "
            "gives top_logprobs, or samples=... at a temperature above 0"
        )
    stated = list(_STATED.finditer("".join(token.token for token in tokens)))
    fitting = [match for match in stated if spelt(match["n"]) == change]
    last = (fitting or stated)[-1:]
    return [token for match in last for token in _covering(tokens, *match.span("n"))]


def spell(tokens: Sequence[TokenLogprob], change: float) -> bool:
    """Whether tokens, as `number_tokens` gives them, lead up to that number."""
    return spelt("".join(token.token for token in tokens)) == change


_DIGITS = rf"(?P<n>[{_MINUS}+]?\d+(?:\.\d+)?)"
_STATED = re.compile(rf"change[\"*\s]*[:\uff1a][\"*\s:\uff1a]*{_DIGITS}", re.IGNORECASE)


def _covering(tokens: Sequence[TokenLogprob], start: int, end: int) -> Iterator[TokenLogprob]:
    """The tokens that touch a span or begin at its end."""
    at = 0
    for token in tokens:
        if at <= end and at + len(token.token) > start:
            yield _finite(token)
        at += len(token.token)


def _finite(token: TokenLogprob) -> TokenLogprob:
    """The token with log-probabilities that JSON can hold."""
    top = {other: _bounded(logprob) for other, logprob in token.top.items()}
    return TokenLogprob(token=token.token, logprob=_bounded(token.logprob), top=top)


def _bounded(logprob: float) -> float:
    if logprob > 0:
        return 0.0
    return logprob if logprob >= FAINT else FAINT


def expectation(tokens: Sequence[TokenLogprob], limit: float) -> float:
    """The mean change over all numbers that the tokens might have spelt.

    An alternative that leaves the path taken is read as far as it goes ("-1" for what could have
    become "-10"); one that spells no number yet ("-") is left out, and the rest shares its weight.

    Args:
        tokens: As `number_tokens` gives them.
        limit: Largest change of one turn; what lies beyond it counts as the limit.

    Raises:
        CallFailure: no number among them.
    """
    ways = list(_ways(tokens))
    total = math.fsum(weight for weight, _ in ways)
    if not total > 0 or not math.isfinite(total):
        raise CallFailure(f"no number among the tokens {[token.token for token in tokens]!r}")
    return math.fsum(w * max(-limit, min(limit, value)) for w, value in ways) / total


def _ways(tokens: Sequence[TokenLogprob]) -> Iterator[tuple[float, float]]:
    """Weights and numbers: where the path could have been left, and its end."""
    prefix, weight = "", 1.0
    for token in tokens:
        for other, logprob in token.top.items():
            value = spelt(prefix + other)
            if other != token.token and value is not None:
                yield weight * math.exp(logprob), value
        prefix += token.token
        weight *= math.exp(token.logprob)
    value = spelt(prefix)
    if value is not None:
        yield weight, value


_LEAD = re.compile(rf"(?:.*?[:\uff1a])??[\"*\s:\uff1a]*{_DIGITS}", re.DOTALL)


def spelt(text: str) -> float | None:
    """The number that a text leads up to, or None."""
    found = _LEAD.match(text)
    try:
        return number(found["n"]) if found else None
    except ValueError:
        return None
