"""Loops on the workers of a real local Ray leave the traces that they leave in this process."""

import shutil

import pytest

pytest.importorskip("ray")

from heartloop.env.play import Dialogue
from heartloop.policy.base import make_policy
from heartloop.policy.loops import Budget, Loop, make_loop
from heartloop.policy.loops.dialogue import talk
from heartloop.policy.loops.solve import solve
from heartloop.policy.parallel import find_ray, join_or_start
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.scenario import pack
from heartloop.types import Episode
from tests.policy.loops.fakes import Guesser
from tests.policy.loops.test_loop import timeless
from tests.policy.loops.test_solve import QUESTIONS


@pytest.fixture(scope="module")
def ray():
    module = find_ray()
    folder = join_or_start(module, 2)
    yield module
    if folder:
        module.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("oracle", [True, False])
@pytest.mark.parametrize("name", ["heart", "random", "best-of-n", "self-refine"])
def test_serial_threads_and_ray_give_the_same_traces(ray, name, oracle):
    loop = make_loop(name, Guesser(), budget=Budget(samples=4))
    serial = solve(loop, QUESTIONS, oracle=oracle, at_once=1)
    threads = solve(loop, QUESTIONS, oracle=oracle, at_once=8)
    far = ray.remote(num_cpus=1)(solve)
    parts = [far.remote(loop, QUESTIONS[n::3], oracle=oracle) for n in range(3)]
    spread = {trace.task: trace for part in ray.get(parts) for trace in part}
    wanted = list(map(timeless, serial))
    assert len({trace.reply.text for trace in serial}) > 1, "the tasks must differ to tell"
    assert list(map(timeless, threads)) == wanted
    assert [timeless(spread[question.id]) for question in QUESTIONS] == wanted


def conversation(loop: Loop, number: int) -> tuple[Episode, list[dict]]:
    stage = Dialogue(EmbeddedUser(), pack("test")[number], number, EmbeddedUser)
    episode, traces = talk(stage, loop)
    return episode, list(map(timeless, traces))


def test_a_rehearsed_dialogue_on_ray_is_the_one_of_this_process(ray):
    loop = make_policy("heart@3:listener")
    far = ray.remote(num_cpus=1)(conversation)
    found = ray.get([far.remote(loop, number) for number in range(2)])
    assert found == [conversation(loop, number) for number in range(2)]
