"""Users on Ray actors say and feel what users in this process do."""

import os
import signal
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


class _Mortal:
    """Kills its process without a word, once, while it hears reply number `turn`."""

    def __init__(self, marks, method, turn):
        self._marks, self._method, self._turn, self._user = marks, method, turn, MAKE()
        self.id, self.preset = self._user.id, self._user.preset
        self.snapshot, self.restore = self._user.snapshot, self._user.restore

    def open(self, scenario, seed):
        opened = self._user.open(scenario, seed)
        self._pass("open", seed == 3)
        return opened

    def react(self, history):
        reaction = self._user.react(history)
        self._pass("react", len(history) == 2 * self._turn)
        return reaction

    def _pass(self, method, here):
        if method == self._method and here and not self._marks.exists():
            self._marks.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("method", "turn"), [("open", 0), ("react", 1), ("react", 4)])
def test_an_actor_killed_in_the_middle_of_an_answer_loses_no_dialogue(
    tmp_path, expected, method, turn
):
    killed = tmp_path / "killed"
    with RayWorld(partial(_Mortal, killed, method, turn), 2, at_once=2) as world:
        pids = {pid(shard) for shard in world._shards}
        assert play(world) == expected
        after = {pid(shard) for shard in world._shards}
    assert int(killed.read_text()) in pids - after
    assert len(pids & after) == 1, "the other actor lives on"


def pid(shard):
    return ray.get(shard.__ray_call__.remote(lambda shard: os.getpid()))


def test_every_actor_killed_at_every_turn_changes_nothing(expected):
    with RayWorld(MAKE, 2) as world:
        seen = set()

        def talk_and_kill(prompt):
            if len(prompt.history) not in seen:
                seen.add(len(prompt.history))
                for shard in world._shards:
                    os.kill(pid(shard), signal.SIGKILL)
            return POLICY.answer(prompt)

        assert play_many(world, ToyPolicy(talk_and_kill), TASKS, reward("final")) == expected
        assert len(seen) > 3


def test_a_reply_to_a_dialogue_that_stands_elsewhere_is_refused():
    """What Ray's own restarts and retries would bring about, unseen."""
    reply = Reply(text="That sounds hard.")
    with RayWorld(MAKE, 1) as world:
        world.open({0: TASKS[0]})
        ray.get(world._shards[0].step.remote({0: (0, reply)}))
        with pytest.raises(HeartloopError, match="0 stands at turn 1 on its actor, the caller at"):
            world.step({0: reply})
        world.open({0: TASKS[0]})
        world._shards[0] = world._actor()
        with pytest.raises(HeartloopError, match="0 stands at turn None on its actor"):
            world.step({0: reply})


def test_dialogues_that_cannot_be_taken_over_say_why():
    with RayWorld(_Closed, 1) as world:
        world.open({0: TASKS[0]})
        ray.kill(world._shards[0])
        with pytest.raises(HeartloopError, match="its memory is closed"):
            world.step({0: Reply(text="Hello?")})


class _Closed:
    def __init__(self):
        self._user = MAKE()
        self.id, self.preset = self._user.id, self._user.preset
        self.open, self.react, self.snapshot = (
            self._user.open, self._user.react, self._user.snapshot,
        )  # fmt: skip

    def restore(self, state):
        raise HeartloopError("its memory is closed")


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
