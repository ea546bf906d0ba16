"""Rollouts hold exactly what the policy saw and said."""

from functools import partial

import pytest

from heartloop.env.play import LocalWorld, Outcome, Task
from heartloop.policy.train import rollout
from heartloop.policy.train.rollout import Driver, Rollout
from heartloop.rewards import reward
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack
from heartloop.types import StopReason
from tests.fakes import ToyUser, toy_scenario

LIMIT = 8


def drive(speaker, tasks, world=None, temperature=1.0) -> list[Rollout]:
    world = world or LocalWorld(partial(make_user, "embedded"))
    return Driver(world, speaker, reward("final"), LIMIT, temperature).play(tasks, "tiny@0")


def some_tasks(count=6):
    return [Task(scenario, 11) for scenario in pack("train")[:count]]


def spans(r: Rollout) -> list[list[int]]:
    """The sampled ids of each turn."""
    starts = [end + 1 - size for end, size in zip(r.turn_ends, sizes(r), strict=True)]
    return [list(r.completion_ids[a : b + 1]) for a, b in zip(starts, r.turn_ends, strict=True)]


def sizes(r: Rollout) -> list[int]:
    found = []
    for end in r.turn_ends:
        size = 0
        while end - size >= 0 and r.mask[end - size]:
            size += 1
        found.append(size)
    return found


def test_ids_are_the_concatenation_of_what_was_said_and_heard(speaker):
    cuts = 0
    for r in drive(speaker, some_tasks()):
        assert list(r.prompt_ids) == speaker.start(r.episode.history[:1])
        ids: list[int] = []
        mask: list[int] = []
        for turn, said in zip(r.episode.turns, spans(r), strict=True):
            assert speaker.reply(said) == turn.reply
            ids, mask = ids + said, mask + [1] * len(said)
            if turn is not r.episode.turns[-1]:
                cut = said[-1] not in speaker.end_ids
                cuts += cut
                heard = [*speaker.end_ids[: int(cut)], *speaker.user_turn(turn.reaction.text)]
                ids, mask = ids + heard, mask + [0] * len(heard)
        assert (list(r.completion_ids), list(r.mask)) == (ids, mask)
        assert r.mask[-1] == 1, "ends on the policy's own token"
    assert cuts, "the check needs a reply that was cut"


def test_rewards_and_emotions_are_those_of_the_episode(speaker):
    for r in drive(speaker, some_tasks()):
        reactions = [turn.reaction for turn in r.episode.turns]
        assert r.emotions == (40.0, *(x.emotion for x in reactions))
        assert r.turn_rewards == tuple(x.change / 100 for x in reactions)
        assert r.reward == r.episode.final / 100
        assert len(r.turn_ends) == len(reactions)


def test_the_same_tasks_give_the_same_rollouts(speaker):
    assert drive(speaker, some_tasks()) == drive(speaker, some_tasks())


def test_a_group_shares_the_user_and_its_noise_but_not_the_policys_seed(speaker):
    scenario = pack("train")[0]
    group = [Task(scenario, 5, sample) for sample in range(4)]
    rollouts = drive(speaker, group)
    assert len({r.episode.opening.text for r in rollouts}) == 1
    assert len({r.completion_ids[:LIMIT] for r in rollouts}) == 4
    likeliest = drive(speaker, group, temperature=1e-4)
    assert len({r.completion_ids for r in likeliest}) == 1, "same replies, same reactions"
    other = drive(speaker, [Task(scenario, 6)], temperature=1e-4)
    assert other[0].emotions != likeliest[0].emotions


def test_a_dialogue_without_a_score_is_masked_and_the_others_go_on(speaker):
    tasks = [Task(toy_scenario("a"), 1), Task(toy_scenario("b", opener="fail"), 1)]
    good, bad = drive(speaker, tasks, LocalWorld(ToyUser))
    assert good.reward is not None
    assert (bad.reward, bad.episode.stop) == (None, StopReason.ERROR)
    assert bad.completion_ids == ()


def test_dialogues_that_end_drop_out_of_the_batch(speaker, monkeypatch):
    batches = []

    class Spy(rollout.Talk):
        def reply(self, added, seeds):
            batches.append(len(added))
            return super().reply(added, seeds)

    monkeypatch.setattr(rollout, "Talk", Spy)
    rollouts = drive(speaker, some_tasks(12))
    turns = [len(r.turn_ends) for r in rollouts]
    assert len(set(turns)) > 1, "the check needs dialogues of unequal length"
    assert batches == [sum(t > i for t in turns) for i in range(max(turns))]


class Slow(LocalWorld):
    """Answers one reply at a time."""

    waiting: dict = {}  # noqa: RUF012

    def step(self, replies):
        self.waiting = {**self.waiting, **replies}
        number = max(self.waiting)
        return super().step({number: self.waiting.pop(number)})


class Mute(LocalWorld):
    """Never answers."""

    def step(self, replies) -> dict[int, Outcome]:
        return {}


def test_a_world_may_answer_late(speaker):
    make = partial(make_user, "embedded")
    assert drive(speaker, some_tasks(4), Slow(make)) == drive(speaker, some_tasks(4))
    with pytest.raises(ValueError, match="must answer every reply"):
        drive(speaker, some_tasks(2), Mute(make))
