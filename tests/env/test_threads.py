"""Checks of the world whose users wait: no dialogue holds up another, and nothing else changes."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from heartloop.env.play import LocalWorld, Task, play_many
from heartloop.env.threads import ThreadedWorld, side_by_side
from heartloop.errors import EndpointFailure, EpisodeFailure, InvalidInput
from heartloop.types import Message, Reaction, Reply, StopReason
from tests.fakes import ToyPolicy, ToyUser, toy_scenario

TASKS = [Task(toy_scenario(f"toy-{i}"), seed=i) for i in range(12)]


class SlowUser(ToyUser):
    """Takes its time."""

    together = 0
    most = 0
    lock = threading.Lock()

    def react(self, history: Sequence[Message]) -> Reaction:
        with SlowUser.lock:
            SlowUser.together += 1
            SlowUser.most = max(SlowUser.most, SlowUser.together)
        time.sleep(0.01)
        with SlowUser.lock:
            SlowUser.together -= 1
        return super().react(history)


class DeadUser(ToyUser):
    """Its endpoint is gone."""

    def react(self, history: Sequence[Message]) -> Reaction:
        raise EndpointFailure("http://127.0.0.1:9 is gone")


def test_the_dialogues_are_those_of_a_plain_world():
    alone = play_many(LocalWorld(ToyUser), ToyPolicy(), TASKS)
    assert play_many(ThreadedWorld(SlowUser), ToyPolicy(), TASKS) == alone
    assert play_many(ThreadedWorld(SlowUser, at_once=2), ToyPolicy(), TASKS, batch=5) == alone


def test_users_wait_side_by_side_up_to_the_limit():
    SlowUser.most = 0

    class Sociable(SlowUser):
        company, places = threading.Barrier(4), []

        def react(self, history: Sequence[Message]) -> Reaction:
            if len(history) == 2:  # the first turn of twelve dialogues
                # Fewer than four at a time would wait in vain.
                Sociable.places.append(Sociable.company.wait(60))
            return super().react(history)

    play_many(ThreadedWorld(Sociable, at_once=4), ToyPolicy(), TASKS)
    assert sorted(Sociable.places) == sorted([0, 1, 2, 3] * 3)
    assert SlowUser.most <= 4


def test_a_dead_endpoint_ends_the_run():
    with pytest.raises(EndpointFailure, match="is gone"):
        play_many(ThreadedWorld(DeadUser), ToyPolicy(), TASKS)


def test_a_failed_reaction_ends_its_own_dialogue_only():
    def answer(prompt):
        return "fail" if prompt.history[0].content == "mine" else "I hear you."

    tasks = [Task(toy_scenario("a", "mine"), 0), Task(toy_scenario("b"), 0)]
    lost, whole = play_many(ThreadedWorld(ToyUser), ToyPolicy(answer), tasks)
    assert lost.stop is StopReason.ERROR
    assert whole.stop is not StopReason.ERROR


def test_a_policy_without_a_reply_ends_its_own_dialogue_in_an_error():
    class Patchy(ToyPolicy):
        def __call__(self, prompts):
            first = TASKS[0].scenario.opener
            return [
                EpisodeFailure("no answer") if p.history[0].content == first else Reply(text="Oh.")
                for p in prompts
            ]

    tasks = [TASKS[0], Task(toy_scenario("other", "Something else happened."), 0)]
    lost, whole = play_many(LocalWorld(ToyUser), Patchy(), tasks)
    assert (lost.stop, lost.error, lost.turns) == (StopReason.ERROR, "no answer", ())
    assert len(whole.turns) == 8


def test_at_least_one_user_may_react_at_a_time():
    with pytest.raises(InvalidInput, match="at_once"):
        ThreadedWorld(ToyUser, at_once=0)


SLOW = """
import signal, sys, threading
from heartloop.env.play import Task, play_many
from heartloop.env.threads import ThreadedWorld
from heartloop.errors import EndpointFailure
from heartloop.llm import Decoding, ScriptedModel, complete
from tests.fakes import ToyPolicy, ToyUser, toy_scenario

# A process begun in the background of a script ignores the signal unless told otherwise.
signal.signal(signal.SIGINT, signal.default_int_handler)
model, begun = ScriptedModel(lambda messages, decoding: "late", 600), threading.Event()

class Waiting(ToyUser):
    def react(self, history):
        if self._state["seed"]:
            print("waiting", flush=True)
            begun.set()
            complete(model, history, Decoding())
        return super().react(history)

def answer(prompt):
    if sys.argv[1] == "policy" and len(prompt.history) > 1 and begun.wait(60):
        raise EndpointFailure("the policy is gone")
    return "I hear you."

play_many(ThreadedWorld(Waiting), ToyPolicy(answer), [Task(toy_scenario(), s) for s in range(2)])
"""


def ended(kind: str) -> str:
    """What a process says that leaves while its users wait for ten minutes."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        if kind == "ctrl-c":
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        return said
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_ends_the_process_though_users_wait_for_a_slow_model():
    assert "KeyboardInterrupt" in ended("ctrl-c")


def test_a_policy_that_breaks_down_ends_the_process_though_users_wait():
    assert "the policy is gone" in ended("policy")


def test_reactions_beside_a_failure_are_heard_before_it_is_raised():
    class Either(ToyUser):
        def react(self, history: Sequence[Message]) -> Reaction:
            if history[-1].content == "die":
                raise EndpointFailure("gone")
            return super().react(history)

    world = ThreadedWorld(Either, at_once=2)
    world.open({0: TASKS[0], 1: TASKS[1]})
    for number, text in enumerate(("die", "Go on.")):
        reply = Reply(text=text)
        reaction = world._crew.submit(lambda n=number, r=reply: world._step(n, r))
        world._pending[reaction] = number
        reaction.exception(30)
    assert list(world.step({})) == [1]
    with pytest.raises(EndpointFailure, match="gone"):
        world.step({1: Reply(text="And then?")})


def test_idle_threads_end():
    play_many(ThreadedWorld(SlowUser), ToyPolicy(), TASKS)
    closing = time.monotonic() + 30
    while time.monotonic() < closing and _users():
        time.sleep(0.01)
    assert _users() == []


def _users() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "heartloop-user"]


def test_work_side_by_side_comes_back_in_order_and_its_first_error_ends_it():
    assert list(side_by_side(lambda n: (time.sleep(0.01 * (3 - n)), n)[1], range(4), 4)) == [
        0, 1, 2, 3]  # fmt: skip

    def fails(number: int) -> int:
        raise EndpointFailure(f"{number} is gone")

    with pytest.raises(EndpointFailure, match="0 is gone"):
        list(side_by_side(fails, range(3), 2))
