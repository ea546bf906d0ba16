"""Checks of the rewards that read emotion scores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.rewards import reward
from heartloop.rewards.emotion import per_turn
from heartloop.types import Episode, Reply, Turn
from tests.fakes import toy_episode

EMOTIONS = (46.0, 31.5, 52.25)
EPISODE = toy_episode("One.", "Two.", "Three.", emotions=EMOTIONS)


def value(spec: str, episode: Episode = EPISODE) -> float:
    result = reward(spec)(episode).value
    assert result is not None
    return result


def test_final_is_the_last_emotion_over_100() -> None:
    assert value("final") == 0.5225


def test_gain_is_the_rise_above_the_start() -> None:
    assert value("gain") == pytest.approx(0.1225)


def test_trough_is_the_lowest_emotion_and_counts_the_start() -> None:
    assert value("trough") == 0.315
    assert value("trough", toy_episode("One.", emotions=(60,))) == 0.4


def test_change_names_every_turn_and_adds_them_up() -> None:
    score = reward("change")(EPISODE)
    assert score.parts == {"turn_1": 0.06, "turn_2": -0.145, "turn_3": 0.2075}
    assert score.value == pytest.approx(0.1225)
    assert per_turn(EPISODE) == list(score.parts.values())


def test_an_unscored_last_reply_counts_as_no_change() -> None:
    turns = (*EPISODE.turns, Turn(reply=Reply(text="Four."), reaction=None))
    longer = EPISODE.model_copy(update={"turns": turns})
    assert per_turn(longer) == [*per_turn(EPISODE), 0.0]
    assert value("final", longer) == value("final")


@pytest.mark.parametrize("spec", ["final", "gain", "trough", "change"])
@given(emotion=st.floats(0, 100).map(lambda x: round(x, 2)))
def test_a_higher_emotion_never_earns_less(spec: str, emotion: float) -> None:
    low, high = (toy_episode("A", emotions=(e,)) for e in (emotion, min(100, emotion + 1)))
    assert value(spec, high) >= value(spec, low)
