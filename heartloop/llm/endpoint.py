"""A server that speaks the OpenAI-compatible protocol: its connections, key, limits and whims."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, suppress
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp

from heartloop.errors import InvalidInput
from heartloop.llm.base import event_loop, leave_to_parent, renew_after_fork
from heartloop.llm.limits import Limits, retry_after
from heartloop.llm.wire import Events, Response

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
LARGEST = 8 * 2**20
"""Bytes of an answer; a longer one is dropped while it comes in."""
CONNECT = 10.0
"""Most seconds to reach the server, within the timeout of the request."""
SECRET = 8
"""Characters from which on a key is one; "EMPTY" and the like only please servers without any."""
DOUBTS = 2
"""Calls in a row that only succeed without a JSON schema before no more are asked for."""
STREAMS = ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True})
"""What asks for a stream: first for one that ends with the tokens it took."""
_FAULTS = (aiohttp.ClientError, OSError, ValueError, EOFError)
"""What may break on the way, a timeout aside."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


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
            if refused == len(STREAMS):
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
