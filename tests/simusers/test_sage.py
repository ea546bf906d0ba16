"""Checks of the SAGE user, played by scripted models."""

import json
import math

import pytest

from heartloop.env.play import Dialogue
from heartloop.errors import CallFailure, EndpointFailure, InvalidInput, UnknownName
from heartloop.llm.base import Completion
from heartloop.simusers import dynamics
from heartloop.simusers.sage import WARMER, SageUser
from heartloop.simusers.sage_record import reread
from heartloop.types import (
    Reply,
    StopReason,
)
from tests.contracts import check_sim_user
from tests.fakes import toy_scenario
from tests.simusers.scripted import (
    CHINESE,
    DEFAULT,
    STYLES,
    TALK,
    Scripted,
    history,
    judged,
    opened,
    said,
    sequence,
)


@pytest.mark.parametrize("scenario", [toy_scenario(), CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("style", STYLES)
def test_it_keeps_the_contract_of_simulated_users(style, scenario) -> None:
    check_sim_user(lambda: SageUser(Scripted(), DEFAULT, style=style), scenario)


@pytest.mark.parametrize(("style", "calls"), [("evaluator", 2), ("trainer", 2), ("single", 1)])
@pytest.mark.parametrize("opener", ["I lost my keys.", ""])
def test_a_dialogue_costs_no_more_calls_than_it_has_to(style, calls, opener) -> None:
    model = Scripted()
    dialogue = Dialogue(SageUser(model, DEFAULT, style=style), toy_scenario(opener=opener), 3)
    for number in range(5):
        dialogue.step(Reply(text="What happened " + "then " * number))
    assert len(dialogue.turns) == 5
    assert len(model.asked) == calls * 5 + (opener == "")
    assert dialogue.opening.text == opener or model.purposes[0] == "open"
    assert dialogue.opening.text.strip()


def test_each_call_has_a_seed_of_its_own_and_the_same_one_again() -> None:
    seeds = []
    for _ in range(2):
        user, model = opened(samples=3, temperature=0.5)
        user.react(TALK)
        user.react([*TALK, *history("So.", "Go on.")])
        seeds.append([decoding.seed for _, _, decoding in model.asked])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 8
    assert all(0 <= seed < 2**31 for seed in seeds[0])


def test_samples_are_averaged_and_each_is_limited_by_itself() -> None:
    user, _ = opened(sequence(judged(5), judged(2), judged(90), said("Hm.")), samples=3)
    reaction = user.react(TALK)
    assert reaction.change == 5.67
    assert reaction.appraisal.contributions == {"judged": 32.33, "limit": -26.66}
    assert reaction.emotion == 45.67


def test_an_appraisal_adds_up_and_names_what_is_felt_and_shown() -> None:
    user, _ = opened(sequence(judged(-30), said("Hm.", shown="angry"), judged(0), said("So.")))
    reaction = user.react(TALK)
    assert reaction.change == -10
    assert reaction.appraisal.contributions == {"judged": -30, "limit": 20}
    assert (reaction.appraisal.felt, reaction.appraisal.shown) == ("sadness", "anger")
    assert reaction.appraisal.reader == "sage/1.1:evaluator"
    calm = user.react([*TALK, *history("Hm.", "I see.")]).appraisal
    assert calm.contributions == {"judged": 0}


def test_a_shown_emotion_that_nobody_knows_is_left_out() -> None:
    user, _ = opened(sequence(judged(1), said("Hm.", shown="强装开心 qqq")))
    assert user.react(TALK).appraisal.shown == ""


def test_the_released_trainer_limits_nothing_but_the_scale() -> None:
    rules = dynamics.preset("rlver-train")
    user, _ = opened(sequence(judged(25), said("Hm.")), preset=rules, style="trainer")
    assert user.react(TALK).emotion == 55


def test_an_unreadable_answer_is_asked_for_again_with_another_seed() -> None:
    user, model = opened(sequence("Sorry?", judged(3), "{", said("Hm.")))
    reaction = user.react(TALK)
    assert (reaction.change, reaction.text) == (3, "Hm.")
    assert model.purposes == ["appraise", "appraise", "reply", "reply"]
    calls = reaction.record["calls"]
    assert [call["used"] for call in calls] == [False, True, False, True]
    assert [call["raw"] for call in calls][::2] == ["Sorry?", "{"]
    assert len({call["seed"] for call in calls}) == 4
    assert [call["temperature"] for call in calls] == [0, WARMER, 0, WARMER]


@pytest.mark.parametrize("style", STYLES)
def test_a_model_that_cannot_be_read_fails_the_episode_within_its_budget(style) -> None:
    model = Scripted(lambda purpose, block, decoding: "I would rather not. Change: 3-5")
    dialogue = Dialogue(SageUser(model, DEFAULT, style=style, retries=2), toy_scenario(), 3)
    dialogue.step(Reply(text="Hello."))
    assert dialogue.stop is StopReason.ERROR
    assert len(model.asked) == 3
    assert dialogue.turns[-1].reaction is None
    assert "scripted/1 gave no readable" in dialogue.error
    assert "I would rather not" in dialogue.error


def test_after_a_failure_the_user_stands_where_it_stood() -> None:
    user, model = opened(sequence("?", judged(3), said("Hm.")), retries=0)
    before = user.snapshot()
    with pytest.raises(CallFailure):
        user.react(TALK)
    assert user.snapshot() == before
    assert user.react(TALK).emotion == 43
    assert len(model.asked) == 3


def test_an_answer_cut_short_is_not_read() -> None:
    cut = Completion(text="Analysis: so\nChange: 1", model="m", finish="length")
    user, model = opened(sequence(cut, judged(5), said("Hm.")))
    assert user.react(TALK).change == 5
    assert len(model.asked) == 3


@pytest.mark.parametrize("error", [EndpointFailure("gone"), CallFailure("given up")])
@pytest.mark.parametrize("samples", [1, 3])
def test_errors_of_the_model_go_through_unchanged(error, samples) -> None:
    user, model = opened(lambda *_: error, samples=samples)
    with pytest.raises(type(error), match=str(error)):
        user.react(TALK)
    assert len(model.asked) == samples


@pytest.mark.parametrize(
    ("again", "text"),
    [(said("Something new."), "Something new."), (said(TALK[0].content), TALK[0].content),
     ("unreadable", TALK[0].content), (CallFailure("given up"), TALK[0].content)],
)  # fmt: skip
@pytest.mark.parametrize("style", ["evaluator", "single"])
def test_words_said_before_are_asked_for_anew_once(style, again, text) -> None:
    old = {"reply": TALK[0].content}
    first = [judged(3), said(old["reply"])] if style == "evaluator" else [judged(3, **old)]
    user, model = opened(sequence(*first, again), style=style)
    reaction = user.react(TALK)
    assert (reaction.text, reaction.change) == (text, 3)
    assert len(model.asked) == len(first) + 1
    assert reread(reaction.record, 40, DEFAULT, toy_scenario()) == reaction


def test_only_the_field_makes_a_farewell() -> None:
    user, _ = opened(
        sequence(judged(1), said("Goodbye then, bye!"), judged(1), said("Hm.", farewell=True))
    )
    assert user.react(TALK).farewell is False
    assert user.react([*TALK, *history("Goodbye then, bye!", "Wait.")]).farewell is True


def test_terminal_codes_of_the_model_are_not_shown_but_kept_as_raw() -> None:
    user, _ = opened(sequence(judged(1), said("\x1b[31mRed\x1b[0m\u200b rag")))
    reaction = user.react(TALK)
    assert reaction.text == "Red rag"
    assert "u001b" in reaction.record["calls"][1]["raw"]


def test_a_reply_is_judged_alone_with_one_call_as_in_the_dialogue() -> None:
    user, model = opened()
    reaction = user.react(TALK)
    fresh = Scripted()
    judge = SageUser(fresh, DEFAULT)
    assert judge.judge(toy_scenario(), TALK, 40, 5) == reaction.change
    assert fresh.asked == model.asked[:1]
    assert judge.judge(toy_scenario(), TALK, 72.5, 6) == reaction.change
    assert fresh.prompts[-1]["emotion"] == "72.5"
    assert fresh.asked[-1][2].seed != fresh.asked[0][2].seed


def test_a_reply_is_judged_alone_by_as_many_appraisals_as_the_id_says() -> None:
    user = SageUser(Scripted(sequence(judged(5), judged(2), judged(5))), DEFAULT, samples=3)
    assert user.judge(toy_scenario(), TALK, 40, 5) == 4


def test_the_last_unreadable_answer_of_a_failed_turn_is_in_the_error() -> None:
    long = "I \x1b[31mwould\u200b rather " + "not " * 100
    cut = Completion(text=long, model="m", finish="length")
    for last in (long, cut):
        user, _ = opened(sequence("first", last), retries=1)
        with pytest.raises(CallFailure, match="I would rather not not") as caught:
            user.react(TALK)
        assert str(caught.value).isprintable()
        assert "not " * 40 in str(caught.value)
        assert "not " * 50 not in str(caught.value)


def test_what_a_re_ask_for_other_words_brought_is_kept_unused() -> None:
    again = "still the same"
    user, _ = opened(sequence(judged(3), said(TALK[0].content), again))
    calls = user.react(TALK).record["calls"]
    assert [(call["raw"], call["used"]) for call in calls[1:]] == [
        (said(TALK[0].content), True),
        (again, False),
    ]


def test_a_snapshot_is_json_and_continues_elsewhere() -> None:
    user, _ = opened()
    user.react(TALK)
    state = json.loads(json.dumps(user.snapshot()))
    other = SageUser(Scripted(), DEFAULT)
    other.restore(state)
    more = [*TALK, *history("So.", "Go on, tell me more of that now.")]
    assert other.react(more) == user.react(more)
    assert other.snapshot() == user.snapshot() != state


def test_an_id_names_all_that_moves_scores() -> None:
    model = Scripted()
    assert SageUser(model, DEFAULT).id == "sage/1.1:evaluator+scripted/1"
    user = SageUser(model, DEFAULT, "trainer", "zh", 3, temperature=0.5)
    assert user.id == "sage/1.1:trainer,language=zh,samples=3,temperature=0.5+scripted/1"


def test_wrong_settings_and_wrong_use_say_what_to_do() -> None:
    model = Scripted()
    with pytest.raises(UnknownName, match="did you mean 'trainer'"):
        SageUser(model, DEFAULT, style="trainr")
    with pytest.raises(UnknownName, match="no prompt language called 'fr'"):
        SageUser(model, DEFAULT, language="fr")
    with pytest.raises(InvalidInput, match="samples of 1 or more"):
        SageUser(model, DEFAULT, samples=0)
    for options in ({"temperature": -1}, {"temperature": math.nan}, {"temperature": math.inf}):
        with pytest.raises(InvalidInput, match="finite temperature of 0 or more"):
            SageUser(model, DEFAULT, **options)
    with pytest.raises(InvalidInput, match="64 at most, got 1000000000"):
        SageUser(model, DEFAULT, samples=10**9)
    with pytest.raises(InvalidInput, match="retries of 0 or more, got -1"):
        SageUser(model, DEFAULT, retries=-1)
    with pytest.raises(InvalidInput, match=r"call open\(scenario, seed\) first"):
        SageUser(model, DEFAULT).react(TALK)
    user, _ = opened()
    for wrong in ([], TALK[:1]):
        with pytest.raises(InvalidInput, match="history that ends with a reply"):
            user.react(wrong)
