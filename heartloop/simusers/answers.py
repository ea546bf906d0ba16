"""Reading what the model behind a SAGE user answered: its forms, and a strict parser.

A JSON object comes first, labelled text (as in published SAGE transcripts) second. A number that
is missing, not finite or given in two versions is a failure and never a score.
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
        ValueError: no number, several different ones, or one that is not finite.
    """
    if isinstance(value, str):
        text = unicodedata.normalize("NFKC", value).replace("\u2212", "-").replace("\u2013", "-")
        found = _NUMBER.findall(text)
        if len(found) != 1:
            raise ValueError(f"expected one number, got {value[:80]!r}")
        value = float("".join(found[0].split()))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}")
    return float(max(-REACH, min(REACH, value)))


_NUMBER = re.compile(r"[+-]?\s?(?:\d+(?:\.\d+)?|\.\d+)")


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
    r"^[ \t*#>\[【\-]*(?:\d+[.)、][ \t*\[【]*)?"
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
    own = _PLUS.sub(r"\1", _THOUGHT.sub("", raw))
    try:
        objects, rest = _objects(own)
        found = [row for row in objects if _NEEDED[form] <= row.keys()]
        labelled = _labelled(form, rest)
        found += [labelled] if _NEEDED[form] <= labelled.keys() else []
        if len(found) != 1:
            raise ValueError(f"{len(found)} answers instead of one")
        row = found[0]
        return FORMS[form].model_validate({k: row[k] for k in _ORDER[form] if k in row})
    except (ValidationError, ValueError, RecursionError) as error:
        raise CallFailure(
            f"expected {form!r} as JSON with {', '.join(_ORDER[form])}; {_reason(error)}; "
            f"got {clean(raw[:400])[:200]!r}: ask again, or use a model that follows JSON schemas"
        ) from None


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

    Nothing within a broken object is looked at, as it may be a quotation; only where labels began
    before it, its brace is a part of their text.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_fields, strict=False)
    found: list[dict[str, Any]] = []
    around, at = "", 0
    while (start := text.find("{", at)) >= 0:
        around += text[at:start]
        try:
            row, at = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            if not found and not _LABEL.search(around):
                raise ValueError(f"broken JSON: {error}") from None
            return found, around + text[start:]
        found.append(row)
    return found, around + text[at:]


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
    """The fields of a labelled text, the last of each label."""
    parts = _LABEL.split(text)
    row: dict[str, Any] = {}
    for label, value in zip(parts[1::2], parts[2::2], strict=True):
        name = _FIELDS[label.lower()]
        if name == "change":
            value = value.strip().partition("\n")[0].strip(" *")
            _agree(form, row.get(name), value)
        row[name] = value.strip().strip("*").strip()
    return row


def _agree(form: Form, before: str | None, now: str) -> None:
    """Two changes must be one number; in reply answers of SAGE, "Change" is a note on style."""
    if form != "reply" and before is not None and number(before) != number(now):
        raise ValueError(f"the change is given twice: {before[:80]!r} and {now[:80]!r}")


def number_tokens(tokens: Sequence[TokenLogprob], change: float) -> list[TokenLogprob]:
    """The tokens that spell the change of an answer, and the one behind them.

    Raises:
        InvalidInput: the answer came without log-probabilities.
        CallFailure: they do not spell the number that was read.
    """
    if not any(token.top for token in tokens):
        raise InvalidInput(
            "expected=True needs log-probabilities, the answer has none: use an endpoint that "
            "gives top_logprobs, or samples=... at a temperature above 0"
        )
    text = "".join(token.token for token in tokens)
    spans = [m.span("n") for m in _STATED.finditer(text) if number(m["n"]) == change]
    if not spans:
        raise CallFailure(f"the tokens of the answer do not spell the change {change:g}")
    return list(_covering(tokens, *spans[-1]))


_STATED = re.compile(
    r"change[\"*\s]*[:\uff1a][\"*\s:\uff1a]*(?P<n>[+-]?\d+(?:\.\d+)?)", re.IGNORECASE
)


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


_LEAD = re.compile(r"[^\d+\-]*(?P<n>[+-]?\d+(?:\.\d+)?)")


def spelt(text: str) -> float | None:
    """The number that a text leads up to, or None."""
    found = _LEAD.match(text)
    return number(found["n"]) if found else None
