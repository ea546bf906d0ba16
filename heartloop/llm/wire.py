"""What goes over the wire of an OpenAI-compatible chat endpoint, and how its answers are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


_UNREADABLE = (
    ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
)  # fmt: skip
"""What reading an answer that is none may raise."""


class Unreadable(ValueError):
    """An answer that does not hold what the protocol promises."""


def request_body(
    model: str, messages: Sequence[Message], decoding: Decoding, structured: bool,
    more: Mapping[str, Any] | None = None,
) -> bytes:  # fmt: skip
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
    return json.dumps(body | dict(more or {})).encode()


@dataclass(slots=True)
class Heard:
    """What has come in of an answer that is streamed."""

    asked: str
    """The model, where the server does not name it."""
    text: str = ""
    finish: str = ""
    """Empty until the server says why the answer ends."""
    done: bool = False
    """Whether the server said that no more events come."""
    _model: str = ""
    _usage: dict[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the answer has come to its end."""
        return self.done or bool(self.finish)

    def take(self, event: bytes) -> str:
        """The text that an event adds.

        Raises:
            Unreadable: it is no piece of a chat completion.
        """
        if event.strip() == b"[DONE]":
            self.done = True
            return ""
        try:
            piece = self._read(json.loads(event))
        except _UNREADABLE as error:
            raise _unreadable("piece of a chat completion", error, event) from None
        self.text += piece
        return piece

    def take_whole(self, body: bytes) -> str:
        """The text of an answer that was not streamed after all.

        Raises:
            Unreadable: it is no chat completion.
        """
        done = read_answer(body, self.asked)
        self.text, self.finish, self._model, self.done = done.text, done.finish, done.model, True
        self._usage = done.model_dump(include={"prompt_tokens", "completion_tokens"})
        return self.text

    def _read(self, event: dict[str, Any]) -> str:
        if error := event.get("error"):
            raise ValueError(f"the server says {error!r:.200}")
        self._model = str(event.get("model") or self._model)
        self._usage = event.get("usage") or self._usage
        # The usage comes in an event without any choice.
        choice = (event.get("choices") or [{}])[0]
        self.finish = str(choice.get("finish_reason") or self.finish)
        return _text((choice.get("delta") or {}).get("content"))

    def completion(self) -> Completion:
        """The whole answer."""
        return Completion(
            text=self.text,
            model=self._model or self.asked,
            finish=self.finish or "stop",
            prompt_tokens=_count(self._usage.get("prompt_tokens")),
            completion_tokens=_count(self._usage.get("completion_tokens")),
        )


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
    except _UNREADABLE as error:
        raise _unreadable("chat completion", error, raw) from None


def _unreadable(wanted: str, error: Exception, raw: bytes) -> Unreadable:
    invalid = isinstance(error, ValidationError)
    kind = "invalid" if invalid else f"{type(error).__name__}: {error}"
    return Unreadable(f"no {wanted} ({kind}) in {whole(raw[:80])!r}")


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
