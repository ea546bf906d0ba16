"""Checks of how a SAGE user is recomputed from its record, without a model."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.env.play import Dialogue
from heartloop.env.verify import check
from heartloop.errors import CallFailure, InvalidInput
from heartloop.llm.base import Completion, TokenLogprob
from heartloop.simusers import dynamics, sage_prompts
from heartloop.simusers.sage import SageUser
from heartloop.simusers.sage_record import reread
from heartloop.types import (
    Reply,
)
from tests.fakes import toy_scenario
from tests.simusers.scripted import (
    CHINESE,
    DEFAULT,
    STYLES,
    TALK,
    Scripted,
    judged,
    opened,
    said,
    sequence,
)


@pytest.mark.parametrize("scenario", [toy_scenario(opener=""), CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("preset", dynamics.PRESETS.values(), ids=lambda p: p.name)
def test_every_reaction_can_be_reread_from_a_file_without_the_model(style, scenario, preset):
    dialogue = Dialogue(SageUser(Scripted(), preset, style=style, samples=2), scenario, 3)
    for text in ("Hm.", "Tell me all of it from the very start, please do.", "bye"):
        if dialogue.stop is None:
            dialogue.step(Reply(text=text))
    episode = dialogue.episode("p")
    episode = type(episode).model_validate_json(episode.model_dump_json())
    reactions = [episode.opening, *(t.reaction for t in episode.turns if t.reaction)]
    assert len(reactions) == 4
    assert reread(reactions[0].record, preset.start, preset, scenario) == reactions[0]
    for before, after in pairwise(reactions):
        assert reread(after.record, before.emotion, preset, scenario) == after


def test_a_changed_raw_answer_changes_the_reread() -> None:
    user, _ = opened(sequence(judged(3), said("Hm.")))
    reaction = user.react(TALK)
    record = json.loads(json.dumps(reaction.record))
    record["calls"][0]["raw"] = judged(9)
    assert reread(record, 40, DEFAULT, toy_scenario()).emotion == 49 != reaction.emotion


def test_a_record_that_picks_its_appraisal_is_refused() -> None:
    user, _ = opened(sequence("?", judged(3), said("Hm.")))
    record = user.react(TALK).record
    picked = [record["calls"][0] | {"raw": judged(-9)}, *record["calls"][1:]]
    with pytest.raises(InvalidInput, match="passes over an appraisal"):
        reread(record | {"calls": picked}, 40, DEFAULT, toy_scenario())
    with pytest.raises(InvalidInput, match="expected 1 used appraisals, got 2"):
        doubled = [record["calls"][1], *record["calls"][1:]]
        reread(record | {"calls": doubled}, 40, DEFAULT, toy_scenario())


@pytest.mark.parametrize("record", [{}, {"calls": 5}, {"calls": [{}]}, {"calls": [5]}])
def test_what_is_no_record_is_refused(record) -> None:
    with pytest.raises(InvalidInput, match="expected the record of a SAGE user"):
        reread(record, 40, DEFAULT, toy_scenario())


raw = st.text(max_size=60) | st.builds(
    lambda c, r: json.dumps({"change": c, "reply": r}),
    st.integers() | st.floats() | st.text(max_size=6),
    st.text(max_size=10),
)


@settings(deadline=None, max_examples=200)
@given(
    raws=st.lists(raw | st.builds("Change: {}\nReply: {}".format, st.floats(), st.text(max_size=5)),
                  min_size=2, max_size=2),
    emotion=st.floats(0, 100),
    preset=st.sampled_from(list(dynamics.PRESETS.values())),
    single=st.booleans(),
)  # fmt: skip
def test_emotion_stays_finite_and_within_its_scale_whatever_the_model_says(
    raws, emotion, preset, single
) -> None:
    purposes = ("turn",) if single else ("appraise", "reply")
    calls = [
        {"purpose": p, "raw": text, "used": True, "finish": "stop", "completion_tokens": 1}
        for p, text in zip(purposes, raws, strict=False)
    ]
    record = {"style": "evaluator", "samples": 1, "expected": False, "calls": calls}
    try:
        reaction = reread(record, emotion, preset, toy_scenario())
    except CallFailure:
        return
    assert 0 <= reaction.emotion <= 100
    assert math.isfinite(reaction.emotion)
    total = math.fsum(reaction.appraisal.contributions.values())
    assert math.isclose(total, reaction.change, abs_tol=1e-6)
    assert reaction.text


def with_tokens(text: str, *numbers: tuple[str, float]) -> Completion:
    """An answer whose number is one token with these alternatives, the first of them taken."""
    head, number, tail = text.partition(numbers[0][0])
    top = {token: math.log(p) for token, p in numbers}
    tokens = [
        TokenLogprob(token=head, logprob=0, top={head: 0}),
        TokenLogprob(token=number, logprob=top[number], top=top),
        TokenLogprob(token=tail, logprob=0, top={tail: 0}),
    ]
    return Completion(text=text, model="m", logprobs=tuple(tokens))


def test_the_expected_change_uses_the_probabilities_and_can_be_reread() -> None:
    answer = with_tokens('{"change": 5}', ("5", 0.5), ("8", 0.25), ("1", 0.25))
    user, model = opened(sequence(answer, said("Hm.")), expected=True)
    reaction = user.react(TALK)
    assert reaction.change == 4.75
    assert [d.top_logprobs for _, _, d in model.asked] == [20, 0]
    record = json.loads(json.dumps(reaction.record, allow_nan=False))
    assert reread(record, 40, DEFAULT, toy_scenario()) == reaction
    record["calls"][0]["logprobs"][0]["token"] = "9"
    with pytest.raises(InvalidInput, match="do not spell the change 5"):
        reread(record, 40, DEFAULT, toy_scenario())


def test_expected_changes_need_log_probabilities() -> None:
    user, _ = opened(sequence(judged(5)), expected=True)
    with pytest.raises(InvalidInput, match="needs log-probabilities"):
        user.react(TALK)


def misspelt() -> Completion:
    """An answer of 5 whose tokens say 7."""
    return with_tokens('{"change": 7}', ("7", 1.0)).model_copy(update={"text": '{"change": 5}'})


@pytest.mark.parametrize("tokens", ["7", ""])
def test_an_answer_whose_tokens_spell_another_number_is_kept_and_verifies(tokens: str) -> None:
    odd = misspelt()
    if not tokens:
        hm = TokenLogprob(token="Hm", logprob=0, top={"Hm": 0})
        odd = odd.model_copy(update={"logprobs": (hm,)})
    good = with_tokens('{"change": 5}', ("5", 0.75), ("1", 0.25))
    model = Scripted(sequence(odd, good, said("Hm.")))
    dialogue = Dialogue(SageUser(model, DEFAULT, expected=True), toy_scenario(), 3)
    dialogue.step(Reply(text="That is bad luck."))
    assert dialogue.turns[0].reaction.change == 4
    calls = dialogue.turns[0].reaction.record["calls"]
    assert [call["used"] for call in calls] == [False, True, True]
    assert [token["token"] for token in calls[0]["logprobs"]] == (["7", "}"] if tokens else [])
    assert list(check(dialogue.episode("toy-policy"))) == []


def test_an_answer_is_not_passed_over_by_leaving_out_its_tokens() -> None:
    good = with_tokens('{"change": 5}', ("5", 1.0))
    user, _ = opened(sequence(misspelt(), good, said("Hm.")), expected=True)
    record = json.loads(json.dumps(user.react(TALK).record))
    for forge in (lambda c: c.pop("logprobs"), lambda c: c.update(raw='{"change": 7}')):
        forged = json.loads(json.dumps(record))
        forge(forged["calls"][0])
        with pytest.raises(InvalidInput, match=r"expected the record|passes over"):
            reread(forged, 40, DEFAULT, toy_scenario())


def test_misspelt_answers_are_given_up_with_an_excerpt() -> None:
    user, _ = opened(sequence(misspelt()), expected=True, retries=0)
    with pytest.raises(CallFailure, match=r"do not spell the change 5, got '\{\"change\": 5\}'"):
        user.react(TALK)


def test_a_record_holds_what_a_recomputation_needs() -> None:
    user, model = opened()
    record = user.react(TALK).record
    assert set(record["calls"][0]) == {
        "purpose", "sample", "model", "prompt_sha256", "temperature", "seed", "raw", "structured",
        "finish", "request_id", "prompt_tokens", "completion_tokens", "used",
    }  # fmt: skip
    for call, (purpose, sent, decoding) in zip(record["calls"], model.asked, strict=True):
        assert call["purpose"] == purpose
        assert call["prompt_sha256"] == sage_prompts.digest(sent)
        assert call["seed"] == decoding.seed
        assert decoding.form == purpose
        assert decoding.json_schema["title"] == purpose
