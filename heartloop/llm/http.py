"""Models behind an OpenAI-compatible HTTP endpoint."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import NoReturn, TypeVar
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
    OPTION_REFUSALS,
    SCHEMA_WORDS,
    Events,
    Heard,
    Response,
    Unreadable,
    read_answer,
    request_body,
    whole,
)
from heartloop.types import Message

T = TypeVar("T")
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
_STREAMS = ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True})
"""What asks for a stream: first for one that ends with the tokens it took."""
_FAULTS = (aiohttp.ClientError, OSError, ValueError, EOFError)
"""What may break on the way, a timeout aside."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(slots=True)
class _Call:
    """One call on its way through its attempts."""

    structured: bool
    named: bool = False
    """Whether a refusal named the JSON schema as its reason."""
    refused: int = 0
    """How many of the ways to ask for a stream were refused."""
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
        self._refused: Counter[str] = Counter()

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

    def streams_refused(self, model: str) -> int:
        """How many of the ways to ask a model for a stream are known to be refused."""
        return self._refused[model]

    def note_streams(self, model: str, refused: int) -> None:
        """Book how many were refused before one led to words."""
        if refused > self._refused[model]:
            self._refused[model] = refused
            if refused == len(_STREAMS):
                _LOG.warning("%r at %s gives no streams: answers come whole", model, self.url)

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
            async with AsyncExitStack() as held:
                until = _now() + limit
                sent = self._sent(body, request_id, limit)
                response = await _before(until, held.enter_async_context(sent))
                if response.status != 200 or response.content_type != "text/event-stream":
                    yield await _before(until, self._whole(response))
                    return
                events = await held.enter_async_context(aclosing(_events(response)))
                # What only keeps a connection alive is no event.
                while (event := await _before(until, anext(events, None))) is not None:
                    yield self._clean(event)
                    until = _now() + limit
            yield Response(200)
        except TimeoutError:
            yield Response(0, fault=f"no word came for {limit:.3g} s")
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
        """Pieces of one answer; see `StreamingModel`. A server that gives no streams gives one.

        What fails before the first piece is tried again like any call. What came is booked, also
        where the caller wants no more of it.
        """
        call = _Call(structured=False, refused=self._endpoint.streams_refused(self._model))
        heard, failures = Heard(self._model), 0
        try:
            while not heard.over:
                if call.refused == len(_STREAMS):
                    yield heard.take_whole(await self._answer(messages, decoding, call))
                    break
                heard, more = Heard(self._model), _STREAMS[call.refused]
                body = request_body(self._model, messages, decoding, False, more)
                async with aclosing(self._hear(body, call, heard)) as given:
                    async for piece in given:
                        yield piece
        except HeartloopError:
            failures = 1
            raise
        finally:
            if heard.text or heard.over:
                self._endpoint.note_streams(self._model, call.refused)
            usage = Usage.of(heard.completion(), max(0, call.attempts - 1), self._price)
            seconds = time.perf_counter() - call.began
            LEDGER.book(self.spec, purpose, replace(usage, failures=failures, seconds=seconds))

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
                    yield heard.take_whole(read_answer(response.body, self._model))
                reason = response.reason or "it ended without an end"
            except Unreadable as error:
                response, reason = Response(200), str(error)
            finally:
                self._endpoint.limits.spend(heard.tokens)
            if self._judged(response, reason, sent, call, heard):
                return
        await self._back_off(call, reason)

    def _judged(
        self, response: Response, reason: str, sent: float, call: _Call, heard: Heard
    ) -> bool:
        """Book a request whose answer was streamed; False where it is to be tried again later."""
        limits = self._endpoint.limits
        if heard.over:
            limits.succeed(0)
        elif heard.text:
            # What has been given out cannot be taken back by another try.
            limits.fail(time.monotonic(), reason)
            raise CallFailure(f"the answer of {self._where} broke off: {reason}")
        elif response.status in OPTION_REFUSALS and not CALL_REFUSALS.search(whole(response.body)):
            call.refused += 1
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
                reason = response.reason
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
        if not call.structured or response.status not in OPTION_REFUSALS:
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


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _before(moment: float, work: Awaitable[T]) -> T:
    """What comes of some work until a moment of the event loop; else TimeoutError."""
    async with asyncio.timeout_at(moment):
        return await work


def _key(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _headers(variable: str, request_id: str) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    key = _key(variable)
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > LARGEST:
            raise ValueError(f"the answer is larger than {LARGEST} bytes")
        yield piece


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    """What the server-sent events of a response hold."""
    events = Events()
    async for piece in _pieces(response):
        for event in events.feed(piece):
            yield event
    for event in events.end():
        yield event


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
