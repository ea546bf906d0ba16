"""A world whose users live on Ray actors: the same dialogues, however many actors there are.

An actor that dies is replaced, and its dialogues go on from where they stood: the caller's side
keeps what was said in each, and the state its user was in after the last answer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from heartloop.env.play import Dialogue, MakeUser, Outcome, Snapshot, Task, Transcript, resume
from heartloop.errors import HeartloopError, InvalidInput, extra
from heartloop.simusers.base import UserState
from heartloop.types import Reply

Answer = tuple[Outcome, UserState]
LIVES = 3
"""Actors that a shard may lose within one call."""


class Shard:
    """The dialogues of one actor; runs in a process of its own, without torch."""

    def __init__(self, make_user: MakeUser, at_once: int = 1) -> None:
        """Populate it with users of that make, `at_once` of whom may react at a time."""
        self._make_user = make_user
        self._dialogues: dict[int, Dialogue] = {}
        self._map: Any = map if at_once == 1 else ThreadPoolExecutor(at_once).map

    def open(self, tasks: Mapping[int, Task]) -> dict[int, Answer]:
        """Open dialogues."""
        return dict(zip(tasks, self._map(self._open, tasks, tasks.values()), strict=True))

    def _open(self, number: int, task: Task) -> Answer:
        opened = Dialogue(self._make_user(), task.scenario, task.seed)
        self._dialogues[number] = opened
        return self._answer(number, Outcome(opened.opening, opened.stop, opened.error))

    def restore(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Take over dialogues under way."""
        for number, snapshot in snapshots.items():
            self._dialogues[number] = resume(self._make_user, snapshot)

    def step(self, replies: Mapping[int, tuple[int, Reply]]) -> dict[int, Answer]:
        """Give replies, each with the number of turns before it, and hear all reactions."""
        return dict(zip(replies, self._map(self._step, replies, replies.values()), strict=True))

    def _step(self, number: int, numbered: tuple[int, Reply]) -> Answer:
        expected, reply = numbered
        dialogue = self._dialogues.get(number)
        stands = len(dialogue.turns) if dialogue else None
        # A reply given twice, or to a dialogue begun anew, would corrupt the score unseen.
        if dialogue is None or stands != expected:
            raise HeartloopError(
                f"dialogue {number} stands at turn {stands} on its actor, the caller at {expected}"
            )
        turn = dialogue.step(reply)
        return self._answer(number, Outcome(turn.reaction, dialogue.stop, dialogue.error))

    def _answer(self, number: int, outcome: Outcome) -> Answer:
        """An outcome with the state to go on from; a dialogue that has stopped is forgotten."""
        if outcome.stop is None:
            return outcome, self._dialogues[number].user.snapshot()
        del self._dialogues[number]
        return outcome, {}


class RayWorld:
    """A world on Ray actors; a context manager, since it may have started Ray."""

    def __init__(self, make_user: MakeUser, actors: int = 2, at_once: int = 1) -> None:
        """Spread users of that make over `actors` processes, in each `at_once` on threads.

        Joins the cluster that RAY_ADDRESS names, or one this process is in already; otherwise
        starts one on this machine and ends it with `close`.

        Raises:
            MissingExtra: Ray is not installed.
            InvalidInput: `actors` is below 1.
        """
        if actors < 1:
            raise InvalidInput(f"expected at least 1 actor, got {actors!r}")
        one = make_user()
        self.user, self.preset = one.id, one.preset
        self._make_user, self._at_once, self._ray = make_user, at_once, find_ray()
        self._folder = join_or_start(self._ray, actors)
        self._shards = [self._actor() for _ in range(actors)]
        self._scripts: dict[int, Transcript] = {}
        self._states: dict[int, UserState] = {}

    def open(self, tasks: Mapping[int, Task]) -> dict[int, Outcome]:
        """Open dialogues; a number in use is opened anew."""
        for number in tasks:
            self._forget(number)
        answers = self._everywhere("open", tasks)
        for number, (outcome, state) in answers.items():
            script = Transcript.begin(tasks[number], outcome, self.preset)
            self._scripts[number], self._states[number] = script, state
            if outcome.stop:
                self._forget(number)
        return {number: outcome for number, (outcome, _) in answers.items()}

    def step(self, replies: Mapping[int, Reply]) -> dict[int, Outcome]:
        """Give replies and hear all reactions; a dialogue that stops is forgotten."""
        if lost := [number for number in replies if number not in self._scripts]:
            raise InvalidInput(f"no dialogue is open under number {lost[0]}: open it first")
        numbered = {n: (len(self._scripts[n].turns), reply) for n, reply in replies.items()}
        answers = self._everywhere("step", numbered)
        for number, (outcome, state) in answers.items():
            self._scripts[number].add(replies[number], outcome)
            self._states[number] = state
            if outcome.stop:
                self._forget(number)
        return {number: outcome for number, (outcome, _) in answers.items()}

    def close(self) -> None:
        """End the actors, and Ray where this world started it."""
        for shard in self._shards:
            self._ray.kill(shard)
        self._shards = []
        if self._folder:
            self._ray.shutdown()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> RayWorld:
        """Use within a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _actor(self) -> Any:
        # Ray's own restarts would run a call again on an empty object: replacing is done here.
        options = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
        remote = self._ray.remote(**options, scheduling_strategy="SPREAD")
        return remote(Shard).remote(self._make_user, self._at_once)

    def _forget(self, number: int) -> None:
        self._scripts.pop(number, None)
        self._states.pop(number, None)

    def _everywhere(self, method: str, items: Mapping[int, Any]) -> dict[int, Answer]:
        """One call to each actor that has something to do; answers in the order of the items."""
        count = len(self._shards)
        parts = {i: {n: x for n, x in items.items() if n % count == i} for i in range(count)}
        calls = {i: [self._call(i, method, part)] for i, part in parts.items() if part}
        found: dict[int, Answer] = {}
        for i, waiting in calls.items():
            found |= self._result(i, method, parts[i], waiting)
        return {number: found[number] for number in items}

    def _call(self, shard: int, method: str, part: Mapping[int, Any]) -> Any:
        return getattr(self._shards[shard], method).remote(part)

    def _result(
        self, shard: int, method: str, part: Mapping[int, Any], calls: list[Any]
    ) -> dict[int, Answer]:
        """The answer to the last call to an actor, or that of its successor."""
        errors = self._ray.exceptions
        # A large answer dies with the machine that made it, after its actor has given it.
        gone = (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError)
        for _ in range(LIVES):
            try:
                answers: dict[int, Answer] = self._ray.get(calls)[-1]
                return answers
            except gone:
                calls = [*self._revive(shard), self._call(shard, method, part)]
            except errors.RayTaskError as error:
                raise error.cause if isinstance(error.cause, HeartloopError) else error from None
        raise HeartloopError(f"user actor {shard} died {LIVES} times in one turn: see Ray's log")

    def _revive(self, shard: int) -> list[Any]:
        """A new actor; the call that gives it the dialogues of the old one, if it had any."""
        self._shards[shard] = self._actor()
        mine = [n for n in self._scripts if n % len(self._shards) == shard]
        if not mine:
            return []
        return [self._call(shard, "restore", {n: self._snapshot(n) for n in mine})]

    def _snapshot(self, number: int) -> Snapshot:
        """Where a dialogue stood after its last answer."""
        script = self._scripts[number]
        return Snapshot(
            user=self.user,
            preset=self.preset.name,
            scenario=script.task.scenario,
            seed=script.task.seed,
            sample=script.task.sample,
            opening=script.opening,
            turns=tuple(script.turns),
            stop=None,
            error="",
            state=self._states[number],
        )


def find_ray() -> ModuleType:
    """Ray, told to keep to itself.

    Raises:
        MissingExtra: it is not installed.
    """
    # Nothing leaves the machine unasked: Ray reports its usage unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as cause:
        raise extra("ray", cause) from cause
    module: ModuleType = ray
    return module


def join_or_start(ray: ModuleType, cpus: int) -> Path | None:
    """Join or start Ray; the folder of what was started, which is ours to end."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if ray.is_initialized():
        return None
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level="ERROR")
        return None
    folder = Path(tempfile.mkdtemp(prefix="hl-"))
    ray.init(address="local", num_cpus=max(1, cpus), _temp_dir=str(folder), **quiet)
    return folder
