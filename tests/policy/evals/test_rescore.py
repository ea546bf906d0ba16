"""Checks of scoring stored dialogues again, and of repeating a score."""

import pytest

from heartloop.env.play import LocalWorld, Task, play_many
from heartloop.errors import CallFailure, InvalidInput
from heartloop.policy.evals.repeatability import contexts, repeatability
from heartloop.policy.evals.rescore import agreement, rescore, rescore_files
from heartloop.rewards import reward
from heartloop.simusers import dynamics
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.scenario import scenarios
from heartloop.types import StopReason
from tests.fakes import ToyPolicy, ToyUser, toy_episode, toy_scenario


def played(number=3):
    tasks = [Task(toy_scenario(f"toy-{i}"), seed=i) for i in range(number)]
    return play_many(LocalWorld(ToyUser), ToyPolicy(lambda p: "tell me" * (p.seed % 3)), tasks)


def test_the_same_user_scores_the_same():
    tasks = [Task(s, 4) for s in scenarios("test")[:3]]
    policy = ToyPolicy(lambda p: f"So {p.history[-1].content.lower()[:30]}, that hurts.")
    episodes = play_many(LocalWorld(EmbeddedUser), policy, tasks)
    found = rescore(episodes, lambda e: EmbeddedUser())
    assert [f.changes for f in found] == [f.recorded_changes for f in found]
    assert [f.final for f in found] == [e.final for e in episodes]
    agreed = agreement(found)
    assert (agreed.same_sign, agreed.difference.mean, agreed.correlation) == (1, 0, 1)


def test_another_user_hears_the_recorded_words_and_the_policy_is_not_called():
    found = rescore(played(), lambda e: EmbeddedUser())
    assert {f.user for f in found} == {EmbeddedUser().id}
    assert {f.recorded_user for f in found} == {"toy/1"}
    assert any(f.changes != f.recorded_changes for f in found)


def test_another_preset_ends_a_dialogue_where_it_would():
    rules = dynamics.preset("sage-eval")
    episode = toy_episode(*["awful"] * 8, emotions=[38] * 8)
    (found,) = rescore([episode], lambda e: ToyUser(rules))
    assert found.preset == "sage-eval"
    assert found.changes == (-10,) * 4  # 40, 30, 20, 10, 0
    assert found.final == 0


def test_without_a_preset_each_dialogue_keeps_its_own():
    tasks = [Task(s, 4) for s in scenarios("test")[:2]]
    rules = dynamics.preset("sage-eval")
    policy = ToyPolicy(lambda p: f"So {p.history[-1].content.lower()[:40]}, that hurts.")
    episodes = play_many(LocalWorld(lambda: EmbeddedUser(rules)), policy, tasks)
    found = rescore_files(episodes, "embedded", None, None)
    assert [f.changes for f in found] == [f.recorded_changes for f in found]
    assert {f.preset for f in found} == {"sage-eval"}


def test_scores_of_two_kinds_are_not_averaged():
    found = rescore(played(2), lambda e: EmbeddedUser() if e.seed else ToyUser())
    with pytest.raises(InvalidInput, match="cannot be averaged"):
        agreement(found)


def test_a_dialogue_that_failed_before_can_be_scored_now():
    failed = toy_episode("I hear you.", emotions=(45,), stop=StopReason.ERROR, error="gone")
    (found,) = rescore([failed], lambda e: ToyUser())
    assert (found.error, len(found.changes)) == ("", 1)


def test_another_reward_reads_the_recorded_episode():
    episode = toy_episode("I hear you.", emotions=(45,))
    (found,) = rescore([episode], None, reward("gain"))
    assert found.score == reward("gain")(episode)
    assert found.final == found.recorded_final == 45


def test_a_dialogue_that_cannot_be_scored_enters_no_mean():
    episodes = [toy_episode("fail", emotions=(50,)), toy_episode("I hear you.", emotions=(50,))]
    found = rescore(episodes, lambda e: ToyUser())
    assert [bool(f.error) for f in found] == [True, False]
    agreed = agreement(found)
    assert (agreed.dialogues, agreed.errored, agreed.rescored.n) == (2, 1, 1)


def test_results_come_in_the_order_of_the_episodes_however_many_at_once():
    episodes, heard = played(8), []
    rescore(episodes, lambda e: ToyUser(), at_once=4, on_result=heard.append)
    assert [h.episode for h in heard] == [e.id for e in episodes]


class Judge:
    """Scores by the seed."""

    id = "judge/1"

    def __init__(self, steps):
        self._steps = steps

    def judge(self, scenario, history, emotion, seed):
        if history[-1].content == "fail":
            raise CallFailure("unreadable")
        return self._steps[seed % len(self._steps)]


def test_a_steady_judge_has_no_flips_and_no_spread():
    found = repeatability(Judge([5.0]), played(), times=3)
    assert (found.user, found.flip_rate, found.spread, found.errored) == ("judge/1", 0, 0, 0)


def test_flips_and_spread_are_those_of_the_scorings():
    found = repeatability(Judge([5.0, -5.0]), played(), number=4, times=2)
    assert (found.contexts, found.flip_rate, found.spread) == (4, 1, 5)


def test_a_context_that_cannot_be_scored_is_counted_apart():
    episodes = [toy_episode("fail", "I hear you.", emotions=(45, 50))]
    found = repeatability(Judge([1.0]), episodes, times=2)
    assert (found.contexts, found.errored, len(found.changes)) == (2, 1, 1)


def test_a_context_holds_the_emotion_before_the_reply():
    found = list(contexts([toy_episode("One.", "Two.", emotions=(45, 52))]))
    assert [c.emotion for c in found] == [40, 45]
    assert [c.history[-1].content for c in found] == ["One.", "Two."]


def test_one_scoring_compares_with_nothing():
    with pytest.raises(InvalidInput, match="at least 2"):
        repeatability(Judge([1.0]), played(), times=1)
    with pytest.raises(InvalidInput, match="no scored reply"):
        repeatability(Judge([1.0]), [], times=2)
