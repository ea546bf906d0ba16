"""CPU time of one chat request with 1,024 under way: this package's client and the `openai` one.

    python benchmarks/client_cost.py [--requests 4096] [--flying 1024]

The server runs in a process of its own and answers after a second. Exits with 1 when this package's
client needs 1 ms of CPU or more a request. The `openai` client is measured where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

from heartloop.llm import Decoding, make_model
from heartloop.llm.base import wait
from heartloop.types import Message

MOST, ROUNDS = 1.0, 3
SAID = [
    Message(role="system", content="You answer in one short sentence. " * 20),
    Message(role="user", content="I lost my keys again today and I have to tell him."),
]
Call = Callable[[], Awaitable[object]]


def main() -> int:
    """Measure, print, judge."""
    asked = _arguments()
    # A socket is an open file; many systems allow no more than 1,024.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if asked.serve:
        serve()
        return 0
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        ours = measured(own(url, asked.flying), asked)
        print(f"heartloop {ours:7.3f} ms CPU a request, bar {MOST} ms", flush=True)
        theirs = openai(url, asked)
        print(f"openai    {f'{theirs:7.3f} ms CPU a request' if theirs else 'not installed'}")
    finally:
        server.terminate()
    return int(ours >= MOST)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4096)
    parser.add_argument("--flying", type=int, default=1024)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def own(url: str, flying: int) -> Call:
    """A call of this package's client."""
    model = make_model(f"openai:toy@{url}?concurrency={flying}")
    return lambda: model(SAID, Decoding(), "benchmark")


def openai(url: str, asked: argparse.Namespace) -> float | None:
    """The cost of the `openai` client over aiohttp, where it is installed."""
    try:
        from openai import AsyncOpenAI, DefaultAioHttpClient
    except ImportError:
        return None
    client = AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, http_client=DefaultAioHttpClient()
    )
    messages = [m.model_dump() for m in SAID]
    cost = measured(
        lambda: client.chat.completions.create(
            model="toy", messages=messages, temperature=0, top_p=1, max_tokens=1024
        ),
        asked,
    )
    wait(client.close())
    return cost


def measured(call: Call, asked: argparse.Namespace) -> float:
    """Least milliseconds of CPU a request over some rounds, after one that opens connections."""

    async def work(share: int) -> None:
        for _ in range(share):
            await call()

    async def flight() -> None:
        share = asked.requests // asked.flying
        await asyncio.gather(*(work(share) for _ in range(asked.flying)))

    wait(flight())
    least = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        wait(flight())
        least = min(least, time.process_time() - began)
    return 1000 * least / asked.requests


def serve() -> None:
    """Answer every request after a second; the port is told on the first line."""
    from aiohttp import web

    body = (
        '{"id": "1", "object": "chat.completion", "created": 1, "model": "toy", "choices": '
        '[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": '
        '"That sounds hard; what will you tell him?"}}], "usage": {"prompt_tokens": 90, '
        '"completion_tokens": 9, "total_tokens": 99}}'
    )

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(1.0)
        return web.Response(text=body, content_type="application/json")

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
