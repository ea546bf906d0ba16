"""How much one endpoint is asked at once: more while it keeps up, less when it says so.

Everything here runs on one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime

from heartloop.errors import EndpointFailure
from heartloop.llm.base import renew_after_fork

START = 16
"""Requests at once before anything is known of the endpoint."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds nobody sends after trouble; doubled from the first to the second while it goes on."""


class Limits:
    """Concurrency, pauses, circuit breaker and budget of one endpoint.

    The concurrency doubles with each round of clean answers until the endpoint complains for the
    first time, then grows by one a round; a complaint halves it.
    """

    def __init__(
        self,
        where: str,
        *,
        concurrency: int = 64,
        patience: float = 60.0,
        max_requests: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Limit an endpoint.

        Args:
            where: Names the endpoint in errors.
            concurrency: Most requests at once.
            patience: Seconds without any success before the endpoint is given up.
            max_requests: Budget of requests, retries counted.
            max_tokens: Budget of tokens, of prompts and answers.
        """
        self._where, self._ceiling, self._patience = where, concurrency, patience
        self._max_requests, self._max_tokens = max_requests, max_tokens
        self._limit = float(min(START, concurrency))
        self._threshold = float(concurrency)
        self._requests = self._tokens = self._pauses = 0
        self._held_until = self._cut_at = 0.0
        self._succeeded_at = 0.0
        self._silent_since: float | None = None
        self._broken: tuple[float, str] | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the requests under way and those that wait; what was learnt stays."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._busy = 0

    @property
    def concurrency(self) -> int:
        """Requests that may be under way at once just now."""
        return int(self._limit)

    @property
    def answered(self) -> bool:
        """Whether the endpoint has ever given a usable answer."""
        return self._succeeded_at > 0

    @property
    def left(self) -> float:
        """Seconds of patience left; all of them while the endpoint is not known to be silent."""
        if self._silent_since is None:
            return self._patience
        return max(0.0, self._patience - (time.monotonic() - self._silent_since))

    def cap(self, timeout: float) -> float:
        """Seconds one request may take: a server that has shown no life gets no more than is left.

        A second at least, as a server on the mend could answer nothing in less.
        """
        if self.answered and self._silent_since is None:
            return timeout
        return min(timeout, max(1.0, self.left))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Room for one request, when its turn has come; gives the moment it is sent.

        Raises:
            EndpointFailure: the endpoint has been given up, or its budget is spent.
        """
        await self._enter()
        self._busy += 1
        self._requests += 1
        try:
            yield time.monotonic()
        finally:
            self._busy -= 1
            self._wake()

    async def _enter(self) -> None:
        try:
            while True:
                self._check()
                if (rest := self._held_until - time.monotonic()) > 0:
                    await asyncio.sleep(rest)
                elif self._busy < self.concurrency:
                    return
                else:
                    await self._turn()
        except BaseException:
            # Whoever leaves the queue early hands its turn on.
            self._wake()
            raise

    async def _turn(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)

    def _wake(self) -> None:
        free = len(self._waiting) if self._broken else self.concurrency - self._busy
        while free > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    def _check(self) -> None:
        if self._broken and time.monotonic() < self._broken[0] + self._patience:
            raise EndpointFailure(self._broken[1])
        if self._broken:
            # It may have been mended since: one more try, judged from its own start.
            self._broken, self._silent_since = None, None
        for spent, budget, unit in (
            (self._requests, self._max_requests, "requests"),
            (self._tokens, self._max_tokens, "tokens"),
        ):
            if budget is not None and spent >= budget:
                raise EndpointFailure(
                    f"budget spent: {spent} of {budget} {unit} at {self._where}; "
                    f"raise max_{unit} in the spec to go on"
                )

    def spend(self, tokens: int) -> None:
        """Book tokens, whatever came of them."""
        self._tokens += tokens

    def succeed(self, tokens: int) -> None:
        """Book a usable answer."""
        self.spend(tokens)
        self._succeeded_at = time.monotonic()
        self._silent_since, self._pauses = None, 0
        growth = 1.0 if self._limit < self._threshold else 1 / self._limit
        self._limit = min(self._ceiling, self._limit + growth)
        self._wake()

    def crowded(self, sent: float, wait: float | None, reason: str) -> None:
        """Book an answer "too many requests", with the seconds to wait where it names them.

        Raises:
            EndpointFailure: the endpoint is given up.
        """
        if sent >= self._cut_at:
            self._limit = self._threshold = max(1.0, self._limit / 2)
        self.fail(sent, reason)
        if wait is None:
            self._pause(sent)
        elif wait > self.left:
            self._break(
                f"asks to wait {wait:.0f} s, of {self._patience:g} s of patience {self.left:.0f} s "
                f"are left ({reason}); raise patience in the spec to wait longer"
            )
        else:
            self._cut_at = time.monotonic()
            self._held_until = max(self._held_until, self._cut_at + wait)

    def stumbled(self, sent: float, reason: str) -> None:
        """Book an error of the server: everybody pauses for a moment.

        Raises:
            EndpointFailure: the endpoint is given up.
        """
        self.fail(sent, reason)
        self._pause(sent)

    def fail(self, sent: float, reason: str) -> None:
        """Book a request that came to nothing.

        Raises:
            EndpointFailure: nothing has succeeded for as long as patience lasts.
        """
        since = max(sent, self._succeeded_at)
        self._silent_since = min(since, self._silent_since or since)
        silent = time.monotonic() - self._silent_since
        if silent >= self._patience:
            self._break(f"has answered nothing usable for {silent:.1f} s (last: {reason})")

    def give_up(self, reason: str) -> None:
        """End the use of an endpoint that has never answered.

        Raises:
            EndpointFailure: always.
        """
        self._break(f"has never given a usable answer (last: {reason})")

    def _pause(self, sent: float) -> None:
        """Hold everybody; trouble of requests sent before the last hold is no news."""
        if sent >= self._cut_at:
            pause = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(self._pauses, 16))
            self._pauses += 1
            self._cut_at = time.monotonic()
            self._held_until = max(self._held_until, self._cut_at + min(pause, self.left))

    def _break(self, reason: str) -> None:
        self._broken = (time.monotonic(), f"{self._where} {reason}")
        self._held_until = 0.0
        self._wake()
        raise EndpointFailure(self._broken[1])


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as an HTTP date."""
    text = (header or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
