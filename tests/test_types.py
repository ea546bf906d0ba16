import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from heartloop.simusers.scenario import pack
from heartloop.types import Episode, Reaction, Reply, Score, Turn


@pytest.mark.parametrize(
    ("raw", "think", "text"),
    [
        ("<think>hurt; stay with it</think> That stings.", "hurt; stay with it", "That stings."),
        ("  <think>\na\nb\n</think>\n\nYes.", "a\nb", "Yes."),
        ("<think></think>Yes.", "", "Yes."),
        ("Yes.", None, "Yes."),
        ("Yes. <think>late</think>", None, "Yes. <think>late</think>"),
        ("<think>open", None, "<think>open"),
        ("<think>a</think>", None, "<think>a</think>"),
        ("<think>a</think>b</think>c", None, "<think>a</think>b</think>c"),
        ("<think>a<think>b</think>c", None, "<think>a<think>b</think>c"),
    ],
)
def test_only_one_complete_block_at_the_start_counts_as_thinking(raw, think, text):
    reply = Reply.parse(raw)
    assert (reply.think, reply.text) == (think, text)
    assert reply.raw == (raw if think is not None else None)


@given(st.text(max_size=200))
def test_parsing_any_text_keeps_it_all(raw):
    reply = Reply.parse(raw)
    assert (reply.raw or reply.text) == raw


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_is_finite_or_none(value):
    with pytest.raises(ValidationError, match="finite or None"):
        Score(value=value)
    assert Score(value=None).value is None


def test_an_emotion_outside_0_to_100_is_refused():
    with pytest.raises(ValidationError):
        Reaction(text="x", emotion=100.01)


def test_values_are_frozen_and_refuse_unknown_fields():
    with pytest.raises(ValidationError):
        Reply(text="a").text = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Reply(text="a", mood=1)  # type: ignore[call-arg]


def test_an_unknown_feeling_in_a_scenario_is_refused_by_name():
    row = pack("test")[0].model_dump() | {"felt": "hungryish"}
    with pytest.raises(ValidationError, match="hungryish"):
        type(pack("test")[0]).model_validate(row)


def test_an_unscored_last_turn_leaves_the_final_emotion_of_the_turn_before():
    opening = Reaction(text="Hi", emotion=40)
    scored = Turn(reply=Reply(text="a"), reaction=Reaction(text="b", emotion=45.5, change=5.5))
    last = Turn(reply=Reply(text="c"), reaction=None)
    episode = Episode(
        id="1", user="u", preset="sage-eval", seed=0, policy="p",
        scenario=pack("test")[0], opening=opening, turns=(scored, last),
    )  # fmt: skip
    assert episode.final == 45.5 and episode.changes == [5.5]
    assert [m.content for m in episode.history] == ["Hi", "a", "b", "c"]
    assert Episode.model_validate_json(episode.model_dump_json()) == episode
