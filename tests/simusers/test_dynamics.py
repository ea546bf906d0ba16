import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.errors import UnknownName
from heartloop.simusers import dynamics
from heartloop.types import StopReason
from tests.paths import data

changes = st.lists(st.floats(-1e6, 1e6, allow_nan=False), max_size=12)
presets = st.sampled_from(sorted(dynamics.PRESETS))


@given(changes, presets)
def test_emotion_stays_within_0_and_100_whatever_the_changes(steps, name):
    for emotion in dynamics.replay(steps, dynamics.preset(name)):
        assert 0 <= emotion <= 100 and math.isfinite(emotion)


def test_published_trajectories_replay_to_the_recorded_emotions_and_ends():
    rules = dynamics.preset("sage-eval")
    rows = [json.loads(x) for x in data("rlver/sage_emotion_trajectories.jsonl").open()]
    assert len(rows) == 1900
    by_farewell = 0
    for row in rows:
        emotions = dynamics.replay(row["changes"], rules)
        assert emotions == row["emotions"] and emotions[-1] == row["final"]
        early = row["n_replies"] == len(row["changes"])
        reason = dynamics.stop(emotions[-1], len(emotions), False, rules)
        if early and reason is None:
            by_farewell += 1
        else:
            assert early == (reason is not None)
        assert all(
            dynamics.stop(e, i, False, rules) is None for i, e in enumerate(emotions[:-1], 1)
        )
    assert by_farewell == 1


def test_the_last_reply_of_a_full_sage_dialogue_is_not_scored():
    rules = dynamics.preset("sage-eval")
    assert [dynamics.is_scored(n, rules) for n in (9, 10)] == [True, False]
    assert dynamics.is_scored(8, dynamics.preset("default"))


@pytest.mark.parametrize(
    ("name", "emotion", "turn", "farewell", "reason"),
    [
        ("default", 9.99, 1, False, StopReason.FAILURE),
        ("default", 10, 1, False, None),
        ("default", 100, 1, False, StopReason.SUCCESS),
        ("default", 50, 1, True, StopReason.FAREWELL),
        ("default", 50, 8, False, StopReason.TURN_LIMIT),
        ("rlver-train", 0, 1, False, StopReason.FAILURE),
        ("rlver-train", 0.5, 1, False, None),
        ("rlver-train", 100, 1, False, None),
    ],
)
def test_a_dialogue_stops_as_its_preset_says(name, emotion, turn, farewell, reason):
    assert dynamics.stop(emotion, turn, farewell, dynamics.preset(name)) is reason


def test_one_turn_moves_at_most_by_the_clamp_and_the_released_trainer_has_none():
    assert dynamics.limit(37, dynamics.preset("default")) == 10
    assert dynamics.limit(-37, dynamics.preset("sage-eval")) == -10
    assert dynamics.limit(37, dynamics.preset("rlver-train")) == 37


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'sage-eval'"):
        dynamics.preset("sage-evl")
