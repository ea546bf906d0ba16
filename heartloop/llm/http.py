"""Models behind an OpenAI-compatible HTTP endpoint."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, field
from random import Random
from typing import NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp

from heartloop.errors import CallFailure, EndpointFailure, HeartloopError, InvalidInput
from heartloop.llm.base import (
    Completion,
    Decoding,
    event_loop,
    leave_to_parent,
    on_event_loop,
    renew_after_fork,
)
from heartloop.llm.ledger import LEDGER, Price, Usage
from heartloop.llm.limits import Limits, retry_after
from heartloop.llm.wire import (
    AGAIN,
    CALL_REFUSALS,
    SCHEMA_REFUSALS,
    SCHEMA_WORDS,
    Heard,
    Unreadable,
    read_answer,
    request_body,
    whole,
)
from heartloop.types import Message

_LOG = logging.getLogger(__name__)
LARGEST = 8 * 2**20
"""Bytes of an answer; a longer one is dropped while it comes in."""
CONNECT = 10.0
"""Most seconds to reach the server, within the timeout of the request."""
BACKOFF, LONGEST_BACKOFF = 0.25, 8.0
"""Seconds before the first and, doubled each time, before the last retry; jitter is added."""
SECRET = 8
"""Characters from which on a key is one; "EMPTY" and the like only please servers without any."""
DOUBTS = 2
"""Calls in a row that only succeed without a JSON schema before no more are asked for."""
_COUNT = {"stream_options": {"include_usage": True}}
"""Asks that a stream end with the tokens it took."""
_FAULTS = (aiohttp.ClientError, OSError, ValueError, EOFError)
"""What may break on the way, a timeout aside."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Response:
    """What came back for one request; status 0 where nothing did."""

    status: int
    body: bytes = b""
    fault: str = ""
    """What broke on the way."""
    wait: float | None = None
    """Seconds the server asks to wait."""


@dataclass(slots=True)
class _Call:
    """One call on its way through its attempts."""

    structured: bool
    named: bool = False
    """Whether a refusal named the JSON schema as its reason."""
    counted: bool = True
    """Whether a stream is asked to end with the tokens it took."""
    id: str = field(default_factory=lambda: uuid4().hex)
    attempts: int = 0
    faults: int = 0
    began: float = field(default_factory=time.perf_counter)

    def usage(self) -> Usage:
        """Of a call that failed."""
        seconds = time.perf_counter() - self.began
        return Usage(calls=1, failures=1, retries=max(0, self.attempts - 1), seconds=seconds)


class Endpoint:
    """A server: its address, its key variable, its limits; shared by all models behind it."""

    def __init__(self, url: str, key: str, timeout: float, limits: Limits) -> None:
        """Reach the server.

        Args:
            url: Base address; "/chat/completions" is appended to it.
            key: Name of the environment variable that holds the key.
            timeout: Seconds for one whole request.
            limits: How much the server is asked at once.
        """
        self.url, self.key, self.limits = url.rstrip("/"), key, limits
        self._timeout = timeout
        self._doubts: Counter[str] = Counter()

    def check_key(self) -> None:
        """See that the key can be sent.

        Raises:
            InvalidInput: the key is missing though the server is not on this machine, or broken.
        """
        # No frame that raises may hold the key: some tools print local variables.
        if not _key(self.key) and urlsplit(self.url).hostname not in LOOPBACK:
            raise InvalidInput(
                f"{self.url} needs a key: set the environment variable {self.key}, "
                "or name another one with ?key=VARIABLE"
            )
        if not (_key(self.key).isascii() and _key(self.key).isprintable()):
            raise InvalidInput(f"the value of {self.key} has characters no key has: set it anew")

    def takes_schema(self, model: str) -> bool:
        """Whether a JSON schema may be asked of a model."""
        return self._doubts[model] < DOUBTS

    def note_schema(self, model: str, taken: bool, named: bool) -> None:
        """Book whether an answer needed its schema left out, and whether the server said so."""
        if taken:
            self._doubts[model] = 0
        elif self.takes_schema(model):
            self._doubts[model] = DOUBTS if named else self._doubts[model] + 1
            if not self.takes_schema(model):
                _LOG.warning(
                    "%r at %s takes no JSON schema: answers are free text", model, self.url
                )

    async def post(self, body: bytes, request_id: str) -> Response:
        """Send one request. Nothing of the key is left in what comes back."""
        self.check_key()
        limit = self.limits.cap(self._timeout)
        # Errors of aiohttp may carry the headers, so none leaves here, not even as a cause.
        try:
            async with self._sent(body, request_id, limit, total=limit) as response:
                return await self._whole(response)
        except TimeoutError:
            return Response(0, fault=f"no whole answer within {limit:.3g} s")
        except _FAULTS as error:
            return self._fault(error)

    async def events(self, body: bytes, request_id: str) -> AsyncGenerator[bytes | Response]:
        """Send one request whose answer may be streamed.

        Yields:
            What each event holds, as it comes in; last of all the response, with a body where
            there were no events, and with a fault where they broke off.
        """
        self.check_key()
        limit = self.limits.cap(self._timeout)
        try:
            async with self._sent(body, request_id, limit, sock_read=limit) as response:
                if response.status != 200 or response.content_type != "text/event-stream":
                    yield await self._whole(response)
                    return
                async for event in _events(response):
                    yield self._clean(event)
            yield Response(200)
        except TimeoutError:
            yield Response(0, fault=f"nothing came for {limit:.3g} s")
        except _FAULTS as error:
            yield self._fault(error)

    def _sent(
        self, body: bytes, request_id: str, limit: float, **timeouts: float
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return _SESSIONS.get().post(
            f"{self.url}/chat/completions",
            data=body,
            headers=_headers(self.key, request_id),
            timeout=aiohttp.ClientTimeout(sock_connect=min(CONNECT, limit), **timeouts),
            allow_redirects=False,
        )

    async def _whole(self, response: aiohttp.ClientResponse) -> Response:
        wait = retry_after(response.headers.get("Retry-After"))
        body = b"".join([piece async for piece in _pieces(response)])
        return Response(response.status, self._clean(body), "", wait)

    def _fault(self, error: Exception) -> Response:
        fault = f"{type(error).__name__} {error}".strip()
        return Response(0, fault=self._clean(fault.encode()).decode())

    def _clean(self, raw: bytes) -> bytes:
        """What a server says, without the key should it echo it."""
        key = _key(self.key).encode()
        return raw.replace(key, b"[key]") if len(key) >= SECRET else raw


class HttpModel:
    """A chat model behind an endpoint."""

    def __init__(
        self,
        model: str,
        endpoint: Endpoint,
        *,
        spec: str = "",
        retries: int = 4,
        price: Price | None = None,
        seed: int = 0,
    ) -> None:
        """Ask `endpoint` for `model`.

        Args:
            model: Its name on the server.
            endpoint: The server.
            spec: What the ledger names it by.
            retries: Requests beyond the first before a call is given up.
            price: Of its tokens.
            seed: Of the jitter between retries.
        """
        self.spec = spec or f"openai:{model}@{endpoint.url}"
        self._model, self._endpoint, self._retries = model, endpoint, retries
        self._price, self._rng = price, Random(seed)
        self._where = f"{model!r} at {endpoint.url}"

    def __repr__(self) -> str:
        return f"HttpModel({self.spec!r})"

    async def __call__(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> Completion:
        """One answer; see `ChatModel`."""
        return await on_event_loop(self._booked(messages, decoding, purpose))

    async def _booked(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str
    ) -> Completion:
        wanted = decoding.json_schema is not None
        call = _Call(structured=wanted and self._endpoint.takes_schema(self._model))
        try:
            completion = await self._answer(messages, decoding, call)
        except HeartloopError:
            LEDGER.book(self.spec, purpose, call.usage())
            raise
        LEDGER.book(self.spec, purpose, Usage.of(completion, call.attempts - 1, self._price))
        if wanted:
            self._endpoint.note_schema(self._model, call.structured, call.named)
        return completion

    async def _answer(
        self, messages: Sequence[Message], decoding: Decoding, call: _Call
    ) -> Completion:
        """Attempts until one succeeds or none is left."""
        while True:
            body = request_body(self._model, messages, decoding, call.structured)
            if completion := await self._attempt(body, call):
                seconds = time.perf_counter() - call.began
                return completion.model_copy(update={"seconds": seconds})

    async def stream(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> AsyncGenerator[str]:
        """Pieces of one answer; see `StreamingModel`. A server that knows no streams gives one.

        What fails before the first piece is tried again like any call.
        """
        call, heard = _Call(structured=False), Heard(self._model)
        try:
            while not heard.over:
                more = {"stream": True} | (_COUNT if call.counted else {})
                body = request_body(self._model, messages, decoding, False, more)
                async with aclosing(self._hear(body, call, heard)) as given:
                    async for piece in given:
                        yield piece
        except HeartloopError:
            LEDGER.book(self.spec, purpose, call.usage())
            raise
        seconds = time.perf_counter() - call.began
        done = heard.completion().model_copy(update={"seconds": seconds})
        LEDGER.book(self.spec, purpose, Usage.of(done, call.attempts - 1, self._price))

    async def _hear(self, body: bytes, call: _Call, heard: Heard) -> AsyncGenerator[str]:
        """The pieces one request brings; `heard` is over where no other need follow."""
        async with self._endpoint.limits.slot() as sent:
            call.attempts += 1
            response = Response(0)
            events = self._endpoint.events(body, f"{call.id}-{call.attempts}")
            try:
                async with aclosing(events):
                    async for event in events:
                        if isinstance(event, Response):
                            response = event
                        elif piece := heard.take(event):
                            yield piece
                        if heard.done:
                            break
                if response.status == 200 and response.body:
                    yield heard.take_whole(response.body)
                reason = _reason(response) or "it ended without an end"
            except Unreadable as error:
                reason = str(error)
            if self._judged(response, reason, sent, call, heard):
                return
        await self._back_off(call, reason)

    def _judged(
        self, response: Response, reason: str, sent: float, call: _Call, heard: Heard
    ) -> bool:
        """Book a request whose answer was streamed; False where it is to be tried again later."""
        limits = self._endpoint.limits
        if heard.over:
            done = heard.completion()
            limits.succeed(done.prompt_tokens + done.completion_tokens)
        elif heard.text:
            # What has been given out cannot be taken back by another try.
            limits.fail(time.monotonic(), reason)
            raise CallFailure(f"the answer of {self._where} broke off: {reason}")
        elif (
            call.counted
            and response.status in SCHEMA_REFUSALS
            and b"stream_options" in response.body
        ):
            call.counted = False
        elif response.status == 200:
            limits.fail(sent, reason)
            return False
        else:
            self._blame(response, reason, sent)
            return False
        return True

    async def _attempt(self, body: bytes, call: _Call) -> Completion | None:
        """One request; None where another is worth its while."""
        endpoint = self._endpoint
        async with endpoint.limits.slot() as sent:
            call.attempts += 1
            request_id = f"{call.id}-{call.attempts}"
            response = await endpoint.post(body, request_id)
            if response.status == 200:
                reason = self._read(response, call, request_id)
                if isinstance(reason, Completion):
                    return reason
                endpoint.limits.fail(sent, reason)
            else:
                reason = _reason(response)
                if self._drops_schema(response, call):
                    return None
                self._blame(response, reason, sent)
        await self._back_off(call, reason)
        return None

    def _read(self, response: Response, call: _Call, request_id: str) -> Completion | str:
        """The completion, or why there is none."""
        try:
            completion = read_answer(response.body, self._model)
        except Unreadable as error:
            return str(error)
        self._endpoint.limits.succeed(completion.prompt_tokens + completion.completion_tokens)
        return completion.model_copy(
            update={"request_id": request_id, "structured": call.structured}
        )

    def _drops_schema(self, response: Response, call: _Call) -> bool:
        """Whether the refusal may be of the JSON schema, so that the call goes on without."""
        if not call.structured or response.status not in SCHEMA_REFUSALS:
            return False
        text = whole(response.body)
        call.structured = bool(CALL_REFUSALS.search(text))
        call.named = bool(SCHEMA_WORDS.search(text))
        return not call.structured

    def _blame(self, response: Response, reason: str, sent: float) -> None:
        """Book a failed request on the endpoint; raises where no retry can help."""
        limits, status = self._endpoint.limits, response.status
        if status == 429 or (response.wait is not None and status >= 500):
            limits.crowded(sent, response.wait, reason)
        elif status >= 500 or status == 0:
            limits.stumbled(sent, reason)
        elif status in AGAIN:
            limits.fail(sent, reason)
        else:
            self._refused(response, reason)

    def _refused(self, response: Response, reason: str) -> NoReturn:
        """Raise what a final refusal means."""
        own = response.status in (400, 422) and CALL_REFUSALS.search(reason)
        if own or response.status == 413:
            raise CallFailure(f"{self._where} refused this dialogue: {reason}")
        advice = {
            401: f"set a valid key in {self._endpoint.key}",
            403: f"see what the key in {self._endpoint.key} may use",
            404: f"see that the server knows {self._model!r} and that the address is whole "
            "(many end in /v1)",
        }.get(response.status, "see what the server expects")
        if 300 <= response.status < 400:
            advice = "redirects are not followed: name the final address"
        raise EndpointFailure(f"{self._where} answered {reason}; {advice}")

    async def _back_off(self, call: _Call, reason: str) -> None:
        """Wait before the next attempt, or give up."""
        call.faults += 1
        if call.faults > self._retries:
            if not self._endpoint.limits.answered:
                self._endpoint.limits.give_up(reason)
            raise CallFailure(
                f"{self._where} gave no usable answer in {call.attempts} requests; last: {reason}"
            )
        pause = min(LONGEST_BACKOFF, BACKOFF * 2.0 ** (call.faults - 1))
        pause *= self._rng.uniform(0.5, 1.5)
        await asyncio.sleep(min(pause, self._endpoint.limits.left))


def _key(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _headers(variable: str, request_id: str) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    key = _key(variable)
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def _reason(response: Response) -> str:
    """Why there is no answer: the status and the beginning of what a server says, on one line."""
    text = response.fault or whole(response.body)
    status = str(response.status) if response.status not in (0, 200) else ""
    return f"{status} {' '.join(text.split())[:300]}".strip()


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > LARGEST:
            raise ValueError(f"the answer is larger than {LARGEST} bytes")
        yield piece


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What the server-sent events of a response hold; one that broke off is left out."""
    rest, data = b"", list[bytes]()
    async for piece in _pieces(response):
        *lines, rest = (rest + piece).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(b"data:"):
                data.append(line.removeprefix(b"data:").removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []


class _Sessions:
    """Holds the session of the models' event loop; `Limits` says how many requests it carries."""

    def __init__(self) -> None:
        self._open: aiohttp.ClientSession | None = None

    def renew(self) -> None:
        leave_to_parent(self._open)
        self._open = None

    def get(self) -> aiohttp.ClientSession:
        if self._open is None:
            self._open = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._open

    def close(self) -> None:
        if self._open:
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._open.close(), event_loop()).result(2)


_SESSIONS = _Sessions()
renew_after_fork(_SESSIONS)
atexit.register(_SESSIONS.close)
