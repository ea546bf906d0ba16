"""A chat server on this machine that answers by a function and fails as often as it is told to."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from aiohttp import web

Written = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Answers a request bit by bit."""
Answer = Callable[[dict[str, Any]], "str | web.Response | Written"]
"""Makes the text of an answer, a response or what writes one out of the body of a request."""
FAULTS = ("429", "500", "stall", "cut", "garbage", "empty", "huge", "foreign")
"""Every fault; the last three are whole answers with a text nobody wants."""
BROKEN = FAULTS[:5]
"""The faults after which there is no answer at all."""
EVENTS = "text/event-stream"
ODD = {
    "empty": "",
    "huge": "word " * 200_000,
    "foreign": "\u4eca\u5929\u7684\u5929\u6c14\u5f88\u597d\u3002",
}


def echo(body: dict[str, Any]) -> str:
    """The last message again."""
    return str(body["messages"][-1]["content"])


@dataclass(frozen=True)
class Seen:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class FaultServer:
    """Serves `/v1/chat/completions` on a free port, in a thread of its own, while it is entered.

    Which request is struck follows from the seed and the request's number.
    """

    def __init__(
        self,
        answer: Answer = echo,
        *,
        rate: float = 0.0,
        faults: tuple[str, ...] = FAULTS,
        seed: int = 0,
        latency: float = 0.0,
        stall: float = 30.0,
        retry_after: str = "0",
        together: int = 1,
        pause: float = 0.0,
        gate: threading.Event | None = None,
    ) -> None:
        """Serve `answer`.

        Args:
            answer: Makes the answers.
            rate: Share of requests struck by one of `faults`; may be set while serving.
            faults: What strikes.
            seed: Of the lot.
            latency: Seconds before each answer.
            stall: Seconds that a stalled request takes.
            retry_after: Header of the 429 answers.
            pause: Seconds before each word of a streamed answer, the first aside.
            gate: Set before any word of a streamed answer but the first is given.
            together: Requests that have to be under way before the first of them is answered;
                may be set while serving.
        """
        self.answer, self.rate, self.faults, self.seed = answer, rate, faults, seed
        self.latency, self.stall, self.retry_after = latency, stall, retry_after
        self.pause, self.gate = pause, gate
        self.together = together
        self.seen: list[Seen] = []
        self.counts: Counter[str] = Counter()
        """Answers by kind: "ok" or the name of a fault."""
        self.base_url = ""
        self.flying = self.most = 0
        """Requests being served now, and the most there have been at once."""

    def __enter__(self) -> FaultServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._on_loop(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._on_loop(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _on_loop(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._serve)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        lot = Random(f"{self.seed}:{len(self.seen)}")
        self.seen.append(Seen(request.path, request.headers, body))
        kind = lot.choice(self.faults) if lot.random() < self.rate else "ok"
        self.counts[kind] += 1
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            await self._company()
            await asyncio.sleep(self.stall if kind == "stall" else self.latency)
            return await self._reply(request, body, kind)
        finally:
            self.flying -= 1

    async def _company(self) -> None:
        """Wait until as many requests as were asked for are under way, once."""
        while self.flying < self.together:
            await asyncio.sleep(0.002)
        self.together = 1

    async def _reply(
        self, request: web.Request, body: dict[str, Any], kind: str
    ) -> web.StreamResponse:
        if kind == "429":
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.json_response({"error": "slow down"}, status=429, headers=headers)
        if kind == "500":
            return web.json_response({"error": "internal"}, status=500)
        if kind == "garbage":
            return web.Response(text='{"choices": [{"message"', content_type="application/json")
        said = ODD[kind] if kind in ODD else self.answer(body)
        if isinstance(said, web.Response):
            return said
        if callable(said):
            return await said(request)
        if body.get("stream"):
            return await self._streamed(request, body, said, cut=kind == "cut")
        whole = json.dumps(completion(body, said)).encode()
        return await _cut(request, whole) if kind == "cut" else web.Response(body=whole)

    async def _streamed(
        self, request: web.Request, body: dict[str, Any], said: str, *, cut: bool
    ) -> web.StreamResponse:
        """An answer as server-sent events, a word each; one that is cut hangs up half way."""
        events = list(chunks(body, said))
        if cut:
            events = events[: len(said.split()) // 2]
        response = web.StreamResponse(headers={"Content-Type": EVENTS})
        await response.prepare(request)
        for number, event in enumerate(events):
            await asyncio.sleep(self.pause if number else 0)
            while number and self.gate and not self.gate.is_set():
                await asyncio.sleep(0.002)
            await response.write(f"data: {event}\n\n".encode())
        if cut and request.transport:
            await asyncio.sleep(0.1)  # aiohttp drops what is not given out when a connection breaks
            request.transport.close()
        return response


def gone(server: FaultServer) -> None:
    """Wait until a server has noticed that nobody listens any more."""
    end = time.monotonic() + 10
    while server.flying:
        assert time.monotonic() < end, "the server still writes"
        time.sleep(0.005)


def in_parts(
    *parts: bytes, then: bytes = b"", every: float = 0.0, content_type: str = EVENTS
) -> Answer:
    """An answer that is written in these parts, each a TCP segment of its own.

    Args:
        parts: What is written.
        then: Written over and over after them, until nobody listens.
        every: Seconds before each of those.
        content_type: Header of the response.
    """

    async def write(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(0.02)
        while then:
            await response.write(then)
            await asyncio.sleep(every)
        return response

    return lambda _: write


async def _cut(request: web.Request, whole: bytes) -> web.StreamResponse:
    """Promise the whole body, send half of it and hang up."""
    response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
    await response.prepare(request)
    await response.write(whole[: len(whole) // 2])
    if request.transport:
        request.transport.close()
    return response


def chunks(body: dict[str, Any], text: str) -> Iterator[str]:
    """What the events of a streamed answer hold; a token is a word."""
    done = completion(body, text)
    words = re.findall(r"\s*\S+", text)
    for delta, finish in (*(({"content": w}, None) for w in words), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        yield json.dumps({"model": body["model"], "choices": [choice]})
    if body.get("stream_options", {}).get("include_usage"):
        yield json.dumps({"model": body["model"], "choices": [], "usage": done["usage"]})
    yield "[DONE]"


def completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    """A chat completion as a server writes it; a token is a word."""
    words = text.split()
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    if body.get("logprobs"):
        top = [{"token": t, "logprob": p} for t, p in (("yes", -0.1), ("no", -2.3))]
        top = top[: body["top_logprobs"]]
        choice["logprobs"] = {
            "content": [{"token": w, "logprob": -0.1, "top_logprobs": top} for w in words]
        }
    asked = sum(len(m["content"].split()) for m in body["messages"])
    return {
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": asked, "completion_tokens": len(words)},
    }
