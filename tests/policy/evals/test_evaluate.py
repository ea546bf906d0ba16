"""Evaluation: one dialogue a scenario, and what is made of it."""

import pytest

from heartloop.env.record import read
from heartloop.errors import InvalidInput, OutputRefused, UnknownName
from heartloop.policy.evals.evaluate import evaluate, summary
from heartloop.simusers.scenario import pack
from heartloop.types import HiddenGoal, StopReason
from tests.fakes import ToyPolicy, toy_episode, toy_scenario

PEOPLE = pack("test")[:3]


def test_every_scenario_is_played_once_and_scored():
    episodes = evaluate(ToyPolicy(), PEOPLE, reward="gain", seed=4)
    assert [e.scenario for e in episodes] == list(PEOPLE)
    assert {(e.seed, e.reward, e.preset) for e in episodes} == {(4, "gain", "default")}
    assert all(e.score is not None and e.score.value is not None for e in episodes)


def test_the_size_of_a_batch_changes_nothing():
    assert evaluate(ToyPolicy(), PEOPLE, batch=1) == evaluate(ToyPolicy(), PEOPLE)


def test_episodes_are_written_as_they_end(tmp_path):
    out, heard = tmp_path / "out.jsonl", []
    episodes = evaluate(ToyPolicy(), PEOPLE, out=out, on_episode=heard.append)
    assert sorted(e.id for _, e in read(out)) == sorted(e.id for e in episodes)
    assert len(heard) == len(PEOPLE)


def test_a_file_that_exists_is_refused_before_anything_is_played(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("kept")
    policy = ToyPolicy()
    with pytest.raises(OutputRefused):
        evaluate(policy, PEOPLE, out=out)
    assert out.read_text() == "kept"
    assert policy.batches == []


@pytest.mark.parametrize("wrong", [{"user": "nobody"}, {"preset": "none"}, {"reward": "finale"}])
def test_an_unknown_name_is_refused(wrong):
    with pytest.raises(UnknownName):
        evaluate(ToyPolicy(), PEOPLE, **wrong)


def test_a_summary_gives_means_shares_and_counts():
    episodes = [
        toy_episode("Hm hm.", "Hm hm.", emotions=(60, 100), stop=StopReason.SUCCESS),
        toy_episode("Hm hm.", emotions=(5,), stop=StopReason.FAILURE),
        toy_episode("So it is.", "Go on then.", emotions=(45, 45)),
    ]
    found = summary(episodes)
    assert found.final.mean == pytest.approx(50)
    assert (found.success, found.failure) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.turns == pytest.approx(5 / 3)
    assert found.length == pytest.approx((2 + 2 + 2 + 3 + 3) / 5)
    assert found.stops == {"failure": 1, "success": 1, "turn_limit": 1}
    assert (found.commonest, found.commonest_share) == ("hm hm.", pytest.approx(3 / 5))
    assert found.by_goal["listening"].n == found.by_group["passive"].n == 3


def test_figures_are_split_by_hidden_goal():
    praised = toy_scenario().model_copy(update={"goal": HiddenGoal.PRAISE})
    episodes = [
        toy_episode("Yes.", emotions=(80,), scenario=praised),
        toy_episode("Yes.", emotions=(20,)),
    ]
    assert {k: v.mean for k, v in summary(episodes).by_goal.items()} == {
        "listening": 20,
        "praise": 80,
    }


def test_errored_episodes_are_counted_and_enter_no_mean():
    whole = toy_episode("Yes.", emotions=(70,))
    broken = toy_episode("Words nobody else says.", emotions=(0,), stop=StopReason.ERROR, error="x")
    found = summary([whole, broken])
    assert (found.episodes, found.errored, found.final.mean, found.final.n) == (2, 1, 70, 1)
    assert (found.failure, found.length, found.stops["error"]) == (0, 1, 1)


def test_without_a_whole_episode_there_is_no_mean():
    found = summary([toy_episode("Yes.", stop=StopReason.ERROR, error="x")])
    assert (found.final, found.errored) == (None, 1)


def test_scores_of_different_users_are_never_averaged():
    other = toy_episode("Yes.").model_copy(update={"user": "toy/2"})
    with pytest.raises(InvalidInput, match="toy/2"):
        summary([toy_episode("Yes."), other])
