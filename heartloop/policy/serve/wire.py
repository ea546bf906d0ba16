"""The messages on the wire: what a chat completion request may hold, and what goes back."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field, ValidationError, model_validator

from heartloop.errors import HeartloopError

_SEED = 2**63
_PIECES = re.compile(r"\s*[^\s\u3400-\u9fff]+|\s*[\u3400-\u9fff]|\s+")


class Refusal(HeartloopError):
    """A request that is answered with an error body."""

    def __init__(self, status: int, message: str, code: str) -> None:
        """Name the HTTP status, the reason and a code for programs."""
        super().__init__(message)
        self.status, self.code = status, code

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API words it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


class Lenient(BaseModel):
    """A part of a request; unknown fields are ignored, and null means "not given"."""

    @model_validator(mode="before")
    @classmethod
    def _drops_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}


class TextPart(Lenient):
    """A piece of a message given in pieces; only text is taken."""

    type: Literal["text"]
    text: str


class ChatMessage(Lenient):
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] = ""

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ResponseFormat(Lenient):
    """The form the answer shall have."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] = Field(default_factory=dict)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields the schema knows; empty where it names none."""
        schema = self.json_schema.get("schema")
        known = schema.get("properties") if isinstance(schema, dict) else None
        return frozenset(known) if isinstance(known, dict) else frozenset()


class StreamOptions(Lenient):
    """What a stream carries beside the text."""

    include_usage: bool = False


class ChatRequest(Lenient):
    """A chat completion request."""

    model: str = Field(max_length=1000)
    messages: list[ChatMessage]
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(
        None, ge=1, le=32768, validation_alias=AliasChoices("max_completion_tokens", "max_tokens")
    )
    seed: int | None = Field(None, ge=-_SEED, lt=_SEED)
    stop: str | list[str] = Field(default_factory=list)
    n: int = Field(1, ge=1, le=64)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat()

    @classmethod
    def read(cls, body: bytes) -> ChatRequest:
        """The request that a body holds.

        Raises:
            Refusal: it is not JSON, or a field is out of range.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(str(step) for step in first["loc"]) or "the body"
            raise Refusal(
                400,
                f"expected a chat completion request: {place}: {first['msg']}, "
                f"got {first['input']!r:.80}; mend the field and send it again",
                "invalid_request",
            ) from error

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which an answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop
        return tuple(text for text in given if text)


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer to a request."""

    text: str
    think: str | None = None
    finish: Literal["stop", "length"] = "stop"
    tokens: int = 0

    def message(self) -> dict[str, Any]:
        """The answer as a message."""
        thought = {} if self.think is None else {"reasoning_content": self.think}
        return {"role": "assistant", "content": self.text, **thought}


@dataclass(frozen=True, slots=True)
class Answer:
    """All that is answered to a request."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    facts: dict[str, Any] = field(default_factory=dict)
    """What heartloop says beyond OpenAI's fields: the emotion, the seed ..."""

    def usage(self) -> dict[str, int]:
        """Tokens read and written."""
        written = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }


def count(text: str) -> int:
    """Words, signs and Chinese characters of a text: the tokens of whatever has no tokenizer."""
    return len(re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|[^\w\s]", text))


def completion(request: ChatRequest, answer: Answer) -> dict[str, Any]:
    """The answer as one body."""
    choices = [
        {"index": i, "message": c.message(), "finish_reason": c.finish, "logprobs": None}
        for i, c in enumerate(answer.choices)
    ]
    body = _head(request, "chat.completion") | {"choices": choices, "usage": answer.usage()}
    return body | {"heartloop": answer.facts}


def events(request: ChatRequest, answer: Answer) -> Iterator[str]:
    """The answer as server-sent events; the last of each choice carries what heartloop adds."""
    head = _head(request, "chat.completion.chunk")
    for index, choice in enumerate(answer.choices):
        for delta in _deltas(choice):
            yield _event(head | {"choices": [_change(index, delta, None)]})
        last = {"choices": [_change(index, {}, choice.finish)], "heartloop": answer.facts}
        yield _event(head | last)
    if request.stream_options.include_usage:
        yield _event(head | {"choices": [], "usage": answer.usage()})
    yield "data: [DONE]\n\n"


def _head(request: ChatRequest, kind: str) -> dict[str, Any]:
    number = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": number, "object": kind, "created": int(time.time()), "model": request.model}


def _deltas(choice: Choice) -> Iterator[dict[str, str]]:
    yield {"role": "assistant", "content": ""}
    if choice.think is not None:
        yield {"reasoning_content": choice.think}
    yield from ({"content": piece} for piece in _PIECES.findall(choice.text))


def _change(index: int, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
