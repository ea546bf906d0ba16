import json
import math
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.errors import InvalidInput
from heartloop.simusers import dynamics
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.scenario import load, pack
from heartloop.types import DisplayRule, Message, Reaction, Scenario
from tests.paths import data

GOOD = (
    "That sounds lonely, and it is less about the thing itself than about not being seen.",
    "You did not do anything wrong there. What was the worst part for you?",
    "No wonder you are hurt. Tell me what happened next, I am listening.",
)
BAD = ("Cheer up!", "It is no big deal, others have it worse.", "You should just move on.")


def talk(user: EmbeddedUser, scenario: Scenario, seed: int, replies: Sequence[str]):
    opening = user.open(scenario, seed)
    history, reactions = [Message(role="user", content=opening.text)], []
    for reply in replies:
        history.append(Message(role="assistant", content=reply))
        reactions.append(user.react(history))
        history.append(Message(role="user", content=reactions[-1].text))
        if reactions[-1].farewell:
            break
    return reactions


def assert_sound(reaction: Reaction, before: float) -> None:
    assert 0 <= reaction.emotion <= 100 and math.isfinite(reaction.emotion)
    assert -10 <= reaction.change <= 10
    assert reaction.text.strip()
    parts = reaction.appraisal.contributions
    assert round(sum(parts.values()), 2) == reaction.change
    assert reaction.emotion == dynamics.step(before, reaction.change, dynamics.preset("default"))


@pytest.mark.parametrize("replies", [GOOD, BAD])
def test_the_same_seed_gives_the_same_dialogue_and_another_seed_another(replies):
    scenario = pack("test")[0]
    one, two, other = (talk(EmbeddedUser(), scenario, s, replies) for s in (3, 3, 4))
    assert one == two
    assert one != other


def test_contributions_add_up_to_the_change_and_the_change_to_the_emotion():
    for scenario in pack("test")[:40]:
        before = 40.0
        for reaction in talk(EmbeddedUser(), scenario, 1, GOOD + BAD):
            assert_sound(reaction, before)
            before = reaction.emotion


@given(st.text(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_unicode_reply_leaves_the_emotion_within_its_bounds(text):
    for reaction in talk(EmbeddedUser(), pack("test")[7], 0, (text, text)):
        assert 0 <= reaction.emotion <= 100 and math.isfinite(reaction.change)


def test_a_snapshot_taken_as_json_continues_exactly_where_it_was():
    scenario = pack("test")[5]
    user, twin = EmbeddedUser(), EmbeddedUser()
    history = [Message(role="user", content=user.open(scenario, 9).text)]
    history.append(Message(role="assistant", content=GOOD[0]))
    history.append(Message(role="user", content=user.react(history).text))
    twin.restore(json.loads(json.dumps(user.snapshot())))
    history.append(Message(role="assistant", content=GOOD[1]))
    assert user.react(history) == twin.react(history)
    assert user.snapshot() == twin.snapshot()


def test_a_listening_dialogue_ends_higher_than_a_dismissive_one_for_nearly_everybody():
    better = 0
    for scenario in pack("test"):
        good = talk(EmbeddedUser(), scenario, 2, GOOD)[-1].emotion
        better += good > talk(EmbeddedUser(), scenario, 2, BAD)[-1].emotion
    assert better >= 95


def test_no_message_is_said_twice_in_a_dialogue():
    rng = Random(5)
    for number, scenario in enumerate(pack("train")[:200]):
        replies = [rng.choice(GOOD + BAD + ("", "Hm.")) for _ in range(8)]
        texts = [
            scenario.opener,
            *(r.text for r in talk(EmbeddedUser(), scenario, number, replies)),
        ]
        assert len(set(texts)) == len(texts)


def test_the_hidden_goal_and_the_needs_are_never_said():
    for scenario in pack("train")[:150]:
        said = " ".join(r.text for r in talk(EmbeddedUser(), scenario, 0, GOOD + GOOD))
        assert not any(need in said for need in scenario.needs)


def test_a_masking_person_shows_something_else_than_is_felt():
    scenario = next(s for s in pack("test") if s.display is DisplayRule.MASK)
    record = EmbeddedUser().open(scenario, 0).appraisal
    assert record.felt == scenario.felt and record.shown == "amusement"


def test_the_dialogue_of_a_pleased_person_ends_in_a_structured_farewell():
    for scenario in pack("test"):
        user = EmbeddedUser()
        user.open(scenario, 0)
        state = user.snapshot() | {"emotion": 99.5, "change": 9.0}
        user.restore(state)
        history = [Message(role="user", content=scenario.opener)]
        reaction = user.react([*history, Message(role="assistant", content=GOOD[0])])
        if reaction.emotion >= 100:
            assert reaction.farewell
            return
    pytest.fail("nobody was pleased")


def test_a_chinese_profile_is_refused_with_a_way_out():
    scenario = load(data("rlver/train_profile.jsonl"))[0]
    with pytest.raises(InvalidInput, match="speak English"):
        EmbeddedUser().open(scenario, 0)


def test_reacting_before_opening_is_refused():
    with pytest.raises(InvalidInput, match="call open"):
        EmbeddedUser().react([Message(role="assistant", content="Hi")])
