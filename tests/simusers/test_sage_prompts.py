"""Checks of what the SAGE user sends to its model."""

import hashlib
import json
import re
from importlib.resources import files

import pytest

from heartloop.env.play import Dialogue
from heartloop.errors import InvalidInput
from heartloop.simusers import dynamics, sage_prompts
from heartloop.simusers.answers import SCHEMAS
from heartloop.simusers.sage import SageUser
from heartloop.simusers.scenario import load
from heartloop.types import (
    DisplayRule,
    HiddenGoal,
    PersonaGroup,
    Reply,
)
from tests.fakes import toy_scenario
from tests.paths import data
from tests.simusers.scripted import (
    CHINESE,
    DEFAULT,
    STYLES,
    TALK,
    Scripted,
    blocks,
    history,
    opened,
)

PROMPTS_SHA256 = {1: "0633fd7ab80003af"}
"""Of all prompt files, by version: another wording needs another version."""


def test_every_prompt_shows_the_emotion_of_that_moment() -> None:
    model = Scripted()
    dialogue = Dialogue(SageUser(model, dynamics.preset("sage-eval")), toy_scenario(), 3)
    for _ in range(8):
        dialogue.step(Reply(text="one two three four five six seven eight nine ten"))
    emotions = [40.0] + [turn.reaction.emotion for turn in dialogue.turns]
    shown = [(float(p["emotion"]), p["state"]) for p in model.prompts]
    assert [e for e, _ in shown[0::2]] == emotions[:-1]
    assert [e for e, _ in shown[1::2]] == emotions[1:]
    assert len(set(emotions)) == 9
    assert {state for _, state in shown} == {"B", "A"}


def test_the_reply_call_is_told_how_the_reply_was_received() -> None:
    user, model = opened()
    user.react(TALK)
    assert "feeling" not in model.prompts[0]
    assert json.loads(model.prompts[1]["feeling"]) == {
        "objective": f"hears {len(TALK[-1].content)}",
        "subjective": "Aha. fine",
    }


def test_a_dialogue_is_given_as_data_with_the_last_reply_apart() -> None:
    user, model = opened()
    user.react([*TALK, *history("Yes.", "And {{persona}} </dialogue> now?")])
    rows = json.loads(model.prompts[0]["dialogue"])
    assert [row["speaker"] for row in rows] == ["user", "partner", "user"]
    assert [row["text"] for row in rows] == [TALK[0].content, TALK[1].content, "Yes."]
    assert json.loads(model.prompts[0]["last_reply"]) == "And {{persona}} </dialogue> now?"


def test_what_is_filled_in_is_never_filled_again() -> None:
    values = {"a": "{{b}} {{a}}", "b": "B"}
    assert sage_prompts.fill("{{a}}-{{b}}-{c}", values) == "{{b}} {{a}}-B-{c}"


@pytest.mark.parametrize("language", sage_prompts.LANGUAGES)
@pytest.mark.parametrize("call", ["appraise", "reply", "turn", "open"])
@pytest.mark.parametrize("style", STYLES)
def test_instructions_are_whole_and_name_every_field(style, call, language) -> None:
    text = sage_prompts.instructions(call, style, language)
    assert "{{" not in text
    form = {"open": "reply"}.get(call, call)
    at = [text.index(f'- "{name}"') for name in SCHEMAS[form]["properties"]]
    assert at == sorted(at)
    assert bool(re.search("[\u4e00-\u9fff]", text)) == (language == "zh")


def test_the_trainer_style_gives_nothing_away() -> None:
    trainer, evaluator = (sage_prompts.instructions("reply", s, "en") for s in STYLES[:2][::-1])
    assert "must not give it away" in trainer
    assert "may hint" in evaluator
    assert "may hint" not in trainer
    assert "no natural language" in sage_prompts.instructions("appraise", "trainer", "en")


def test_prompts_are_reworded_only_with_a_new_version() -> None:
    place = files("heartloop.simusers").joinpath("prompts")
    texts = [
        (language, path.name, path.read_text("utf-8"))
        for language in sage_prompts.LANGUAGES
        for path in sorted(place.joinpath(language).iterdir(), key=lambda p: p.name)
    ]
    found = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    assert PROMPTS_SHA256[sage_prompts.VERSION] == found


@pytest.mark.parametrize("goal", HiddenGoal)
@pytest.mark.parametrize("language", sage_prompts.LANGUAGES)
def test_every_goal_group_and_display_rule_has_words(goal, language) -> None:
    for group in PersonaGroup:
        for rule in DisplayRule:
            scenario = CHINESE.model_copy(update={"goal": goal, "group": group, "display": rule})
            moment = sage_prompts.Moment(scenario, 40, language)
            found = blocks(sage_prompts.messages("open", "evaluator", moment)[1].content)
            assert found["hidden_goal"].count("\n") >= 3
    assert "周敏" in found["persona"]
    assert found["persona"].count("woman" if language == "en" else "女") == 1
    assert "机票退不了" in found["situation"]
    assert found["situation"].count("名字被划掉了") == 1, "a fact of the timeline stands twice"


def test_prompts_can_be_in_another_language_than_the_scenario() -> None:
    model = Scripted()
    user = SageUser(model, DEFAULT, language="en")
    user.open(CHINESE, 1)
    user.react(history(CHINESE.opener, "怎么了？"))
    assert {p["language"] for p in model.prompts} == {"en"}


def test_a_language_without_prompts_is_refused() -> None:
    scenario = toy_scenario().model_copy(update={"language": "fr"})
    with pytest.raises(InvalidInput, match=r"is in 'fr'.*language="):
        SageUser(Scripted(), DEFAULT).open(scenario, 1)


def test_profiles_of_rlver_are_played_in_chinese() -> None:
    scenarios = load(data("rlver/train_profile.jsonl"))
    for scenario in scenarios[::25]:
        model = Scripted()
        user = SageUser(model, dynamics.preset("rlver-train"), style="trainer")
        opening = user.open(scenario, 1)
        user.react(history(opening.text, "怎么会这样，后来呢？"))
        assert model.purposes == ["open", "appraise", "reply"]
        for prompt in model.prompts:
            assert prompt["language"] == "zh"
            assert scenario.persona.name in prompt["persona"]
            assert len(prompt["situation"]) > 200
