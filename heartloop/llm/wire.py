"""What goes over the wire of an OpenAI-compatible chat endpoint, and how its answers are read."""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from heartloop.llm.base import MOST_TOKENS, Completion, Decoding, TokenLogprob
from heartloop.types import Message

AGAIN = frozenset({408, 425, 429})
"""Statuses below 500 after which the same request may succeed."""
OPTION_REFUSALS = frozenset({400, 404, 422})
"""Statuses of servers that do not know a part of the request."""
SCHEMA_WORDS = re.compile(r"response.?format|schema|guided|structured", re.IGNORECASE)
"""A refusal that names the JSON schema as its reason."""
CALL_REFUSALS = re.compile(
    r"context.{0,3}length|maximum context|max_model_len|too long|too many tokens|too large"
    r"|content.{0,3}(filter|policy|management)",
    re.IGNORECASE,
)
"""A refusal of this one dialogue; others may still be answered."""
_TOKEN = 4
"""Bytes that a token stands for where the server counts none: about as many as in English."""


_UNREADABLE = (
    ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
)  # fmt: skip
"""What reading an answer that is none may raise."""


class Unreadable(ValueError):
    """An answer that does not hold what the protocol promises."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back for one request; status 0 where nothing did."""

    status: int
    body: bytes = b""
    fault: str = ""
    """What broke on the way."""
    wait: float | None = None
    """Seconds the server asks to wait."""

    @property
    def reason(self) -> str:
        """Why there is no answer: status and begin of what the server says, on one line."""
        text = self.fault or whole(self.body)
        status = str(self.status) if self.status not in (0, 200) else ""
        return f"{status} {' '.join(text.split())[:300]}".strip()


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


class Events:
    """Takes server-sent events out of the bytes in which they come."""

    def __init__(self) -> None:
        """Begin at the begin of a stream."""
        self._line, self._data = bytearray(), list[bytes]()
        self._first, self._returned = True, False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What each event holds that ends in a further piece of the stream."""
        if self._returned:
            # A line that ended between the two bytes of its end is no empty one.
            piece = piece.removeprefix(b"\n")
        self._returned = piece.endswith(b"\r")
        head, *lines = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line += head
        for line in lines:
            yield from self._end_of_line()
            self._line += line

    def end(self) -> Iterator[bytes]:
        """The last event, where the stream ends without an empty line."""
        yield from self._end_of_line()
        yield from self._end_of_line()

    def _end_of_line(self) -> Iterator[bytes]:
        line = bytes(self._line)
        self._line.clear()
        if self._first:
            line, self._first = line.removeprefix(BOM_UTF8), False
        if line.startswith(b"data:"):
            self._data.append(line.removeprefix(b"data:").removeprefix(b" "))
        elif not line and self._data:
            event = b"\n".join(self._data)
            self._data.clear()
            yield event


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
    _pieces: int = 0
    _half: str = ""
    """Half of a character, until the other comes."""

    @property
    def over(self) -> bool:
        """Whether the answer has come to its end."""
        return self.done or bool(self.finish)

    @property
    def tokens(self) -> int:
        """Of the prompt, where the server counts, and of the answer."""
        done = self.completion()
        return done.prompt_tokens + done.completion_tokens

    def take(self, event: bytes) -> str:
        """The text that an event adds.

        Raises:
            Unreadable: it is no piece of a chat completion.
        """
        try:
            piece = self._joined(self._read(event))
        except _UNREADABLE as error:
            raise _unreadable("piece of a chat completion", error, event) from None
        self.text += piece
        self._pieces += bool(piece)
        return piece

    def take_whole(self, done: Completion) -> str:
        """The text of an answer that was not streamed after all."""
        self.text, self.finish, self._model, self.done = done.text, done.finish, done.model, True
        self._usage = done.model_dump(include={"prompt_tokens", "completion_tokens"})
        return self.text

    def _read(self, raw: bytes) -> str:
        if raw.strip() == b"[DONE]":
            self.done = True
            return ""
        event = json.loads(raw)
        if error := event.get("error"):
            raise ValueError(f"the server says {error!r:.200}")
        self._model = _paired(str(event.get("model") or self._model))
        if isinstance(usage := event.get("usage"), dict):
            self._usage = usage
        # The usage comes in an event without any choice.
        choice = (event.get("choices") or [{}])[0]
        self.finish = _paired(str(choice.get("finish_reason") or self.finish))
        return _content((choice.get("delta") or {}).get("content"))

    def _joined(self, content: str) -> str:
        """Content after the half character held back before; a half at its end is held back."""
        text = self._half + content
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" and not self.over else ""
        return _paired(text.removesuffix(self._half))

    def completion(self) -> Completion:
        """The answer as far as it came; where nobody counts tokens, a piece is one."""
        return Completion(
            text=self.text,
            model=self._model or self.asked,
            finish=self.finish or "stop",
            prompt_tokens=_within(self._usage.get("prompt_tokens")),
            completion_tokens=_within(self._usage.get("completion_tokens")) or self._pieces,
        )


def read_answer(raw: bytes, asked: str) -> Completion:
    """The completion in a response body; `asked` names the model where the server does not.

    Where the server does not count the tokens of the answer, they are estimated.

    Raises:
        Unreadable: the body is no chat completion.
    """
    try:
        answer = json.loads(raw)
        choice = answer["choices"][0]
        usage = answer.get("usage") or {}
        text = _paired(_content(choice["message"]["content"]))
        return Completion(
            text=text,
            model=str(answer.get("model") or asked),
            finish=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")) or _estimated(text),
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


def _content(content: object) -> str:
    """Content is text, nothing (a refusal), or a list of parts."""
    if isinstance(content, list):
        content = "".join(_content(part.get("text")) for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError(f"expected text, got {type(content).__name__}")
    return content or ""


def _paired(text: str) -> str:
    """Half characters, which no file can hold, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(number: object) -> int:
    return number if isinstance(number, int) and number > 0 else 0


def _estimated(text: str) -> int:
    """Tokens of a text where nobody counts them, so that a budget of tokens holds all the same."""
    return math.ceil(len(text.encode()) / _TOKEN)


def _within(number: object) -> int:
    """A count of a stream, whose words are out already; one beyond reason counts as none."""
    count = _count(number)
    return count if count <= MOST_TOKENS else 0


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    top = {_paired(t["token"]): _finite(t["logprob"]) for t in entry.get("top_logprobs") or ()}
    return TokenLogprob(token=_paired(entry["token"]), logprob=_finite(entry["logprob"]), top=top)


def _finite(logprob: float) -> float:
    """The server's number; JSON holds no infinity, so that -9999 is the usual stand-in."""
    return float(logprob) if math.isfinite(logprob) else -9999.0
