"""Dialogues a second with users that wait for a model, beside what their latency alone allows.

    python benchmarks/user_throughput.py [--dialogues 64] [--latency 0.5] [--at-once 1,4,16,64,128]

The model is the scripted brain in a process of its own, each answer `--latency` seconds late; its
changes are set to 0, so that every dialogue has all its turns and the ideal is known. The policy is
scripted and costs next to nothing. A row plays as many dialogues as it has at once, `--dialogues`
at most, after two turns of each that open the connections and let the client's concurrency grow;
the best of three rounds counts, as other programs on the machine only ever slow one down. Exits
with 1 when 64 at once reach less than 0.9 of the ideal, or stall the event loop by 50 ms or more
(p99). The CPU time holds that of watching the loop, which weighs where few calls are under way.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

from heartloop.env.play import Prompt, Task, play_many
from heartloop.env.threads import world
from heartloop.llm.base import event_loop
from heartloop.simusers import dynamics
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack
from heartloop.types import Episode, Reply

ROUNDS = 3
LEAST, MOST, JUDGED = 0.9, 50.0, 64
"""Share of the ideal, milliseconds of lag (p99), and the row that both are asked of."""
TICK = 0.005
"""Seconds between two looks at the event loop."""


@dataclass(frozen=True)
class Measured:
    """What one row of the table says."""

    at_once: int
    dialogues: int
    calls: int
    seconds: float
    ideal: float
    """Seconds that latency alone takes."""
    lags: Sequence[float]
    """Milliseconds by which the event loop was late, sorted."""
    cpu: float
    """Seconds of CPU of this process."""

    @property
    def share(self) -> float:
        """How much of the ideal speed was reached."""
        return self.ideal / self.seconds

    def lag(self, quantile: float) -> float:
        """Milliseconds of lag that so large a share of looks stayed within."""
        return self.lags[min(len(self.lags) - 1, ceil(quantile * len(self.lags)) - 1)]

    @property
    def passed(self) -> bool:
        """Whether the bars are met."""
        return self.share >= LEAST and self.lag(0.99) < MOST

    @property
    def row(self) -> str:
        """A row of a Markdown table."""
        speed, bound = self.dialogues / self.seconds, self.dialogues / self.ideal
        lags = f"{self.lag(0.5):.1f} | {self.lag(0.99):.1f}"
        cost = 1000 * self.cpu / self.calls
        return (
            f"| {self.at_once} | {self.dialogues} | {speed:.3f} | {bound:.3f} | {self.share:.2f} "
            f"| {lags} | {cost:.2f} |"
        )


HEAD = (
    "| at once | dialogues | dialogues/s | ideal | share | lag p50, ms | p99 | CPU ms a call |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    """Measure, print, judge."""
    asked = _arguments()
    if asked.serve:
        serve(asked.latency)
        return 0
    failed = False
    print(HEAD)
    with served(asked.latency) as url:
        for at_once in asked.at_once:
            rounds = (measure(url, at_once, asked.dialogues, asked.latency) for _ in range(ROUNDS))
            found = max(rounds, key=lambda measured: measured.share)
            print(found.row, flush=True)
            failed |= at_once == JUDGED and not found.passed
    return int(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument(
        "--at-once",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[1, 4, 16, 64, 128],
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


class Asker:
    """A scripted policy that asks on and on."""

    name, reveals = "asker", False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """The same reply to everybody."""
        return [Reply(text="That sounds hard. What happened then?")] * len(prompts)


def measure(url: str, at_once: int, dialogues: int, latency: float, turns: int = 8) -> Measured:
    """Play dialogues with users behind `url`, `at_once` of them at a time."""
    number = min(at_once, dialogues)
    played(url, at_once, number, turns=2)
    began, spent = time.perf_counter(), time.process_time()
    with watched() as lags:
        episodes = played(url, at_once, number, turns)
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    assert not any(e.error for e in episodes)
    reactions = [t.reaction for e in episodes for t in e.turns if t.reaction]
    calls = sum(len(reaction.record["calls"]) for reaction in reactions)
    return Measured(at_once, number, calls, seconds, calls / number * latency, sorted(lags), cpu)


def played(url: str, at_once: int, number: int, turns: int) -> list[Episode]:
    """So many dialogues of so many turns."""
    rules = dynamics.preset("default").model_copy(update={"turns": turns})
    spec = f"sage:openai:brain@{url}?concurrency={at_once}"
    stage = world(lambda: make_user(spec, rules), at_once)
    tasks = [Task(scenario, seed=0) for scenario in pack("train")[:number]]
    return play_many(stage, Asker(), tasks, batch=number)


@contextmanager
def watched() -> Iterator[list[float]]:
    """Collects how late the models' event loop comes back to a task that only sleeps."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            lags.append(1000 * (time.perf_counter() - due))

    task = asyncio.run_coroutine_threadsafe(watch(), event_loop())
    try:
        yield lags
    finally:
        task.cancel()


@contextmanager
def served(latency: float) -> Iterator[str]:
    """The address of the late brain, in a process of its own."""
    command = [sys.executable, __file__, "--serve", "--latency", str(latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    finally:
        server.terminate()
        server.wait()


def serve(latency: float) -> None:
    """Answer `latency` seconds after a request came in; the port is told on the first line."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        due = time.perf_counter() + latency
        body = completion(await request.json())
        await asyncio.sleep(due - time.perf_counter())
        return web.json_response(body)

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """What the brain says to a request, its change set to 0."""
    from heartloop.policy.serve import brain

    prompt = "\n".join(message["content"] for message in body["messages"])
    row = brain.answer(brain.read(prompt), body["seed"])
    text = brain.as_json(row | ({"change": 0} if "change" in row else {}))
    return {
        "model": body["model"],
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())},
    }


if __name__ == "__main__":
    sys.exit(main())
