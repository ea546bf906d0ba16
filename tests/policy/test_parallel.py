"""Users on Ray actors say and feel what users in this process do."""

import os
import sys
import time
from functools import partial

import pytest

ray = pytest.importorskip("ray")

from heartloop.env.play import LocalWorld, Task, play_many  # noqa: E402
from heartloop.errors import HeartloopError, InvalidInput  # noqa: E402
from heartloop.policy.parallel import RayWorld  # noqa: E402
from heartloop.rewards import reward  # noqa: E402
from heartloop.simusers.registry import make_user  # noqa: E402
from heartloop.simusers.scenario import pack  # noqa: E402
from heartloop.types import Reply  # noqa: E402
from tests.fakes import ToyPolicy  # noqa: E402

MAKE = partial(make_user, "embedded")
TASKS = [Task(scenario, seed) for seed, scenario in enumerate(pack("train")[:7])]
POLICY = ToyPolicy(lambda prompt: f"That sounds hard. {'Tell me more. ' * (prompt.seed % 3)}")


def play(world):
    return play_many(world, POLICY, TASKS, reward("final"))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests of this module, which the worlds join."""
    first = RayWorld(MAKE, actors=1)
    yield first
    first.close()
    assert not ray.is_initialized(), "a world ends the Ray that it started"


@pytest.fixture(scope="module")
def expected():
    return play(LocalWorld(MAKE))


@pytest.mark.parametrize("actors", [1, 2, 4])
def test_any_number_of_actors_gives_the_dialogues_of_this_process(actors, expected):
    with RayWorld(MAKE, actors) as world:
        assert play(world) == expected
    assert ray.is_initialized(), "a world leaves alone the Ray that it found"


def test_dialogues_of_a_killed_actor_go_on_as_if_nothing_had_happened(expected):
    with RayWorld(MAKE, 2) as world:
        said = 0

        def talk_and_kill(prompt):
            nonlocal said
            said += 1
            if said in (10, 25):
                ray.kill(world._shards[said % 2])
                time.sleep(0.2)
            return POLICY.answer(prompt)

        policy = ToyPolicy(talk_and_kill)
        assert play_many(world, policy, TASKS, reward("final")) == expected
        assert said > 25


def test_an_actor_needs_no_torch():
    with RayWorld(MAKE, 1) as world:
        world.open({0: TASKS[0]})
        loaded = ray.get(world._shards[0].__ray_call__.remote(lambda shard: set(sys.modules)))
    assert "heartloop.simusers.embedded" in loaded
    assert not {"torch", "transformers", "trl"} & loaded


def test_mistakes_are_named():
    with pytest.raises(InvalidInput, match="at least 1 actor, got 0"):
        RayWorld(MAKE, 0)
    with RayWorld(MAKE, 1) as world, pytest.raises(InvalidInput, match="open under number 3"):
        world.step({3: Reply(text="Hello?")})


def test_an_actor_that_dies_again_and_again_ends_the_run():
    with RayWorld(partial(_Doomed, os.getpid()), 1) as world:
        world.open({0: TASKS[0]})
        with pytest.raises(HeartloopError, match="died 3 times"):
            world.step({0: Reply(text="Hello?")})


class _Doomed:
    """Takes its process with it, unless it is the test's own."""

    def __init__(self, home):
        self._home, self._user = home, MAKE()
        self.id, self.preset = self._user.id, self._user.preset
        self.open, self.snapshot, self.restore = (
            self._user.open, self._user.snapshot, self._user.restore,
        )  # fmt: skip

    def react(self, history):
        assert os.getpid() != self._home
        os._exit(1)
