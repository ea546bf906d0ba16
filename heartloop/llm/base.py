"""The contract of chat models, and how code that does not await calls one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from functools import cache
from typing import Any, Protocol, TypeVar

from pydantic import Field

from heartloop.types import Message, Value

T = TypeVar("T")


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
    prompt_tokens: int = 0
    completion_tokens: int = 0
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


def complete(
    model: ChatModel, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
) -> Completion:
    """Call a model from code that does not await; safe from many threads at once."""
    return wait(model(messages, decoding, purpose))


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the one event loop all models of this process share."""
    return asyncio.run_coroutine_threadsafe(work, event_loop()).result()


async def on_event_loop(work: Coroutine[Any, Any, T]) -> T:
    """Await work that belongs on the models' event loop from whichever loop this is."""
    if asyncio.get_running_loop() is event_loop():
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, event_loop()))


_STARTING = threading.Lock()


def event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all models, on a thread of its own."""
    with _STARTING:
        return _started()


@cache
def _started() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="heartloop-llm", daemon=True).start()
    return loop
