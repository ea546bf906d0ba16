"""Models behind an OpenAI-compatible HTTP endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from random import Random
from typing import NoReturn
from uuid import uuid4

from heartloop.errors import CallFailure, EndpointFailure, HeartloopError
from heartloop.llm.base import Completion, Decoding, on_event_loop, unheard
from heartloop.llm.endpoint import STREAMS, Endpoint
from heartloop.llm.ledger import LEDGER, Price, Usage
from heartloop.llm.wire import (
    AGAIN,
    CALL_REFUSALS,
    OPTION_REFUSALS,
    SCHEMA_WORDS,
    Heard,
    Response,
    Unreadable,
    read_answer,
    request_body,
    whole,
)
from heartloop.types import Message

BACKOFF, LONGEST_BACKOFF = 0.25, 8.0
"""Seconds before the first and, doubled each time, before the last retry; jitter is added."""


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

    @property
    def latest(self) -> str:
        """The id of its latest request."""
        return f"{self.id}-{self.attempts}"

    def usage(self) -> Usage:
        """Of a call that failed."""
        seconds = time.perf_counter() - self.began
        return Usage(calls=1, failures=1, retries=max(0, self.attempts - 1), seconds=seconds)


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
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        purpose: str = "",
        ended: Callable[[Completion], None] = unheard,
    ) -> AsyncGenerator[str]:
        """Pieces of one answer; see `StreamingModel`. A server that gives no streams gives one.

        What fails before the first piece is tried again like any call. What came is booked, also
        where the caller wants no more of it.
        """
        call = _Call(structured=False, refused=self._endpoint.streams_refused(self._model))
        heard, failures = Heard(self._model), 0
        try:
            while not heard.over:
                if call.refused == len(STREAMS):
                    yield heard.take_whole(await self._answer(messages, decoding, call))
                    break
                heard, more = Heard(self._model), STREAMS[call.refused]
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
        ended(heard.completion().model_copy(update={"seconds": seconds, "request_id": call.latest}))

    async def _hear(self, body: bytes, call: _Call, heard: Heard) -> AsyncGenerator[str]:
        """The pieces one request brings; `heard` is over where no other need follow."""
        async with self._endpoint.limits.slot() as sent:
            call.attempts += 1
            response = Response(0)
            events = self._endpoint.events(body, call.latest)
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
            response = await endpoint.post(body, call.latest)
            if response.status == 200:
                reason = self._read(response, call)
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

    def _read(self, response: Response, call: _Call) -> Completion | str:
        """The completion, or why there is none."""
        try:
            completion = read_answer(response.body, self._model)
        except Unreadable as error:
            return str(error)
        self._endpoint.limits.succeed(completion.prompt_tokens + completion.completion_tokens)
        return completion.model_copy(
            update={"request_id": call.latest, "structured": call.structured}
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
