"""What goes over the wire of an OpenAI-compatible chat endpoint, and how its answers are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from heartloop.llm.base import Completion, Decoding, TokenLogprob
from heartloop.types import Message

AGAIN = frozenset({408, 425, 429})
"""Statuses below 500 after which the same request may succeed."""
SCHEMA_REFUSALS = frozenset({400, 404, 422})
"""Statuses of servers that do not know `response_format`."""
SCHEMA_WORDS = re.compile(r"response.?format|schema|guided|structured", re.IGNORECASE)
"""A refusal that names the JSON schema as its reason."""
CALL_REFUSALS = re.compile(
    r"context.{0,3}length|maximum context|max_model_len|too long|too many tokens|too large"
    r"|content.{0,3}(filter|policy|management)",
    re.IGNORECASE,
)
"""A refusal of this one dialogue; others may still be answered."""


class Unreadable(ValueError):
    """An answer that does not hold what the protocol promises."""


def request_body(
    model: str, messages: Sequence[Message], decoding: Decoding, structured: bool
) -> bytes:
    """The JSON of a request; what is left at its default by the caller is left to the server."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "max_tokens": decoding.max_tokens,
    }
    if decoding.seed is not None:
        body["seed"] = decoding.seed
    if decoding.stop:
        body["stop"] = list(decoding.stop)
    if decoding.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": decoding.top_logprobs}
    if structured:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": decoding.form or "answer",
                "strict": True,
                "schema": decoding.json_schema,
            },
        }
    return json.dumps(body).encode()


def read_answer(raw: bytes, asked: str) -> Completion:
    """The completion in a response body; `asked` names the model where the server does not.

    Raises:
        Unreadable: the body is no chat completion.
    """
    try:
        answer = json.loads(raw)
        choice = answer["choices"][0]
        usage = answer.get("usage") or {}
        return Completion(
            text=_text(choice["message"]["content"]),
            model=str(answer.get("model") or asked),
            finish=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            logprobs=tuple(map(_logprob, (choice.get("logprobs") or {}).get("content") or ())),
        )
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError,
            RecursionError) as error:  # fmt: skip
        kind = (
            "invalid" if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        )
        raise Unreadable(f"no chat completion ({kind}) in {whole(raw[:80])!r}") from None


def whole(raw: bytes) -> str:
    """Bytes as text, whatever they are."""
    return raw.decode("utf-8", "replace")


def _text(content: object) -> str:
    """Content is text, nothing (a refusal), or a list of parts."""
    if isinstance(content, list):
        content = "".join(_text(part.get("text")) for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError(f"expected text, got {type(content).__name__}")
    return _paired(content or "")


def _paired(text: str) -> str:
    """Half characters, which no file can hold, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(number: object) -> int:
    return number if isinstance(number, int) and number > 0 else 0


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    top = {_paired(t["token"]): _finite(t["logprob"]) for t in entry.get("top_logprobs") or ()}
    return TokenLogprob(token=_paired(entry["token"]), logprob=_finite(entry["logprob"]), top=top)


def _finite(logprob: float) -> float:
    """The server's number; JSON holds no infinity, so that -9999 is the usual stand-in."""
    return float(logprob) if math.isfinite(logprob) else -9999.0
