"""What Ray actors cost: dialogues a second beside what latency allows, and memory over many.

    python benchmarks/actors.py [--latency 0.5] [--actors 1,2,4,8] [--dialogues 10000]

First, users that take `--latency` seconds for every message, 64 dialogues in flight on so many
actors: the ideal is one latency for the opening and for each turn. The dialogues are as long as the
preset lets them be, since nobody leaves before; the best of three rounds counts, as other programs
on the machine only ever slow one down. Second, `--dialogues` dialogues with embedded users on two
actors, the resident memory of this process and of the actors read after each tenth. The policy is
scripted and costs next to nothing. Exits with 1 when a row reaches less than 0.9 of the ideal, or
when the memory grows by more than 5 % after the first fifth.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Sequence
from functools import partial

import ray

from heartloop.env.play import Prompt, Task, play_many
from heartloop.policy.parallel import RayWorld
from heartloop.simusers import dynamics
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack
from heartloop.types import Message, Reaction, Reply, Scenario

IN_FLIGHT, ROUNDS, TURNS = 64, 3, 8
LEAST, MOST = 0.9, 1.05
"""Share of the ideal, and growth of memory."""
MIB = 2**20


class Asker:
    """A scripted policy that asks on and on."""

    name, reveals = "asker", False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """The same reply to everybody."""
        return [Reply(text="That sounds hard. What happened then?")] * len(prompts)


class Slow:
    """A user that thinks for a while, and never leaves."""

    def __init__(self, latency: float) -> None:
        """Take `latency` seconds for every message."""
        self._latency = latency
        self.id, self.preset = "slow", dynamics.preset("default")

    def open(self, scenario: Scenario, seed: int) -> Reaction:
        """Begin."""
        time.sleep(self._latency)
        return Reaction(text="I don't know.", emotion=self.preset.start)

    def react(self, history: Sequence[Message]) -> Reaction:
        """Go on."""
        return self.open(None, 0)  # type: ignore[arg-type]

    def snapshot(self) -> dict[str, object]:
        """Nothing to keep."""
        return {}

    def restore(self, state: object) -> None:
        """Nothing to take over."""


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument(
        "--actors", type=lambda t: [int(n) for n in t.split(",") if n], default=[1, 2, 4, 8]
    )
    parser.add_argument("--dialogues", type=int, default=10_000)
    asked = parser.parse_args()
    with RayWorld(partial(make_user, "embedded"), 2):
        fast = speed(asked.actors, asked.latency)
        return int(not (memory(asked.dialogues) and fast))


def speed(actors: Sequence[int], latency: float) -> bool:
    """A table; whether every row is fast enough."""
    print("| actors | dialogues/s | ideal | share |\n|---|---|---|---|")
    tasks = [Task(scenario, 0) for scenario in pack("train")[:IN_FLIGHT]]
    shares = []
    for number in actors:
        with RayWorld(partial(Slow, latency), number, at_once=-(-IN_FLIGHT // number)) as world:
            play_many(world, Asker(), tasks[:number], batch=number)  # the actors are there
            seconds, messages = min(timed(world, tasks) for _ in range(ROUNDS))
        ideal = messages * latency
        shares.append(ideal / seconds)
        row = f"{IN_FLIGHT / seconds:.2f} | {IN_FLIGHT / ideal:.2f} | {shares[-1]:.3f}"
        print(f"| {number} | {row} |", flush=True)
    return min(shares, default=1.0) >= LEAST


def timed(world: RayWorld, tasks: Sequence[Task]) -> tuple[float, int]:
    """Seconds for all dialogues, and messages of a user in the longest."""
    began = time.perf_counter()
    episodes = play_many(world, Asker(), tasks, batch=IN_FLIGHT)
    seconds = time.perf_counter() - began
    lengths = {sum(t.reaction is not None for t in e.turns) for e in episodes}
    assert len(lengths) == 1, "all dialogues are of one length"
    return seconds, 1 + lengths.pop()


def memory(dialogues: int) -> bool:
    """A table; whether memory stayed where it was."""
    print("\n| dialogues | driver, MiB | actors, MiB |\n|---|---|---|")
    people = pack("train")
    found: list[float] = []
    with RayWorld(partial(make_user, "embedded"), 2) as world:
        for tenth in range(10):
            tasks = [
                Task(people[n % len(people)], n)
                for n in range(tenth * dialogues // 10, (tenth + 1) * dialogues // 10)
            ]
            for start in range(0, len(tasks), 100):
                play_many(world, Asker(), tasks[start : start + 100], batch=IN_FLIGHT)
            found.append(_show(str((tenth + 1) * dialogues // 10), world))
    return found[-1] <= MOST * found[1]


def _show(name: str, world: RayWorld) -> float:
    """A row of the table; bytes in all."""
    calls = [shard.__ray_call__.remote(lambda shard: resident()) for shard in world._shards]
    here, there = resident(), ray.get(calls)
    shown = " + ".join(f"{size / MIB:.1f}" for size in there)
    print(f"| {name} | {here / MIB:.1f} | {shown} |", flush=True)
    return here + sum(there)


def resident() -> float:
    """Bytes of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    raise SystemExit(main())
