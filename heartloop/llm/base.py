"""The contract of chat models, and how code that does not await calls one."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar, runtime_checkable
from weakref import WeakSet

from pydantic import Field

from heartloop.types import Message, Value

T = TypeVar("T")
MOST_TOKENS = 2**31
"""A larger count of tokens is nonsense."""


class Decoding(Value):
    """How one answer is drawn."""

    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token."""
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = Field(0, ge=0, le=20)
    """Alternatives reported for each token of the answer; 0 for none."""
    form: str = ""
    """Name of the JSON schema the answer shall follow, for the server's log; "" for free text."""
    json_schema: dict[str, Any] | None = None
    """Asked of the server where it can; the caller validates all the same."""


class TokenLogprob(Value):
    """One token of an answer with its likeliest alternatives, natural logarithms."""

    token: str
    logprob: float
    top: dict[str, float] = Field(default_factory=dict)


class Completion(Value):
    """One answer of a model."""

    text: str
    model: str
    """As the server names it."""
    finish: str = "stop"
    """"stop", "length" or the server's own word."""
    prompt_tokens: int = Field(0, ge=0, le=MOST_TOKENS)
    completion_tokens: int = Field(0, ge=0, le=MOST_TOKENS)
    seconds: float = 0.0
    request_id: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    structured: bool = False
    """Whether the server was asked for the JSON schema and took it."""
    cached: bool = False


class ChatModel(Protocol):
    """A model that answers a dialogue; many calls may be under way at once."""

    @property
    def spec(self) -> str:
        """What `make_model` makes it from; holds no secret."""
        ...

    async def __call__(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> Completion:
        """One answer.

        Args:
            messages: The dialogue, a system message first where there is one.
            decoding: How the answer is drawn.
            purpose: What the ledger books it under ("appraise", "reply", "policy", "judge" ...).

        Raises:
            CallFailure: this call was given up; its episode is masked, others go on.
            EndpointFailure: the model cannot be used any more; the run must stop.
        """
        ...


def unheard(answer: Completion) -> None:
    """Takes a whole answer that nobody wants besides its pieces."""


@runtime_checkable
class StreamingModel(ChatModel, Protocol):
    """A chat model that can say its answer as it is made."""

    def stream(
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        purpose: str = "",
        ended: Callable[[Completion], None] = unheard,
    ) -> AsyncGenerator[str]:
        """Pieces of one answer; no JSON schema is asked for.

        To be used on the models' event loop, see `pieces`.

        Args:
            messages: As for a call.
            decoding: As for a call.
            purpose: As for a call.
            ended: Given the whole answer after its last piece; not where it broke off.

        Raises:
            CallFailure: as a call, or the answer broke off after the pieces given.
            EndpointFailure: as a call.
        """
        ...


def complete(
    model: ChatModel, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
) -> Completion:
    """Call a model from code that does not await; safe from many threads at once."""
    return wait(model(messages, decoding, purpose))


class Calls:
    """Calls of models that can be given up together, whichever threads wait for them."""

    def __init__(self) -> None:
        """Begin with no call under way."""
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()
        self._over = False

    def adopt(self) -> None:
        """Count every later call of this thread among these."""
        _CALLS.set(self)

    def cancel(self) -> None:
        """Give up the calls under way; later ones are refused."""
        with self._lock:
            self._over = True
            calls = list(self._under_way)
        for call in calls:
            call.cancel()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine on the models' event loop.

        Raises:
            CancelledError: the calls were given up.
        """
        with self._lock:
            if self._over:
                work.close()
                raise CancelledError("this run was given up: begin a new one")
            future = asyncio.run_coroutine_threadsafe(work, event_loop())
            self._under_way.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._under_way.discard(future)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine on the models' event loop.

        Raises:
            CancelledError: the calls were given up.
        """
        future = self.start(work)
        try:
            return future.result()
        finally:
            # Does nothing to a finished call; one left by Ctrl-C is not paid for any longer.
            future.cancel()


_CALLS: ContextVar[Calls | None] = ContextVar("calls", default=None)


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the one event loop all models of this process share."""
    return (_CALLS.get() or Calls()).run(work)


async def on_event_loop(work: Coroutine[Any, Any, T]) -> T:
    """Await work that belongs on the models' event loop from whichever loop this is."""
    if asyncio.get_running_loop() is event_loop():
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, event_loop()))


def pieces(stream: AsyncGenerator[T]) -> Iterator[T]:
    """What a generator on the models' event loop gives, for code that does not await.

    It is read as fast as it gives, for what waits in a connection is lost where that breaks. To
    close this closes the other, with all that it holds.
    """
    box: SimpleQueue[T | None] = SimpleQueue()

    async def read() -> None:
        async with aclosing(stream):
            async for piece in stream:
                box.put(piece)

    reading = (_CALLS.get() or Calls()).start(read())
    reading.add_done_callback(lambda _: box.put(None))
    try:
        while (piece := box.get()) is not None:
            yield piece
        reading.result()
    finally:
        reading.cancel()


class Renewable(Protocol):
    """What holds locks, threads or calls that a forked child does not have."""

    def renew(self) -> None:
        """Begin as in a new process."""
        ...


_RENEWABLE: WeakSet[Renewable] = WeakSet()
_PARENTS: list[object] = []


def renew_after_fork(thing: Renewable) -> None:
    """Have a thing renewed in every forked child."""
    _RENEWABLE.add(thing)


def leave_to_parent(thing: object) -> None:
    """Keep what a forked child must not use and, as it shares sockets, must not close either."""
    _PARENTS.append(thing)


def _renew() -> None:
    for thing in list(_RENEWABLE):
        thing.renew()


class _Home:
    """Where the event loop of all models runs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def renew(self) -> None:
        leave_to_parent(self._loop)
        self._loop, self._starting = None, threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                run = self._loop.run_forever
                threading.Thread(target=run, name="heartloop-llm", daemon=True).start()
            return self._loop


_HOME = _Home()
renew_after_fork(_HOME)
os.register_at_fork(after_in_child=_renew)


def event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all models, on a thread of its own."""
    return _HOME.loop()
