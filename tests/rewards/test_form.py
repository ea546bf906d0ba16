"""Checks of the rewards that read the form of replies."""

import pytest

from heartloop.rewards import reward
from heartloop.rewards.form import ENDLESS, LONG, SHORT, words
from heartloop.types import Reaction, Reply, Turn
from tests.fakes import toy_episode, toy_scenario

THOUGHT = "<think>they are sad</think>That sounds hard."


def value(name: str, *replies: str, language: str = "en") -> float:
    scenario = toy_scenario().model_copy(update={"language": language})
    result = reward(name)(toy_episode(*replies, scenario=scenario)).value
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["That sounds hard.", "Tell me more."], 1),
        ([THOUGHT, THOUGHT], 1),
        ([THOUGHT, "No thought here."], 0),
        (["<think>never closed", THOUGHT], 0),
        (["A leak </think> in the text."], 0),
        (["<think>a</think><think>b</think>Text."], 0),
        (["<think></think>Nothing thought."], 0),
        (["<think>only a thought</think>"], 0),
        (["<THINK>shouted</THINK> text"], 0),
        (["fine", "  "], 0),
        ([""], 0),
    ],
)
def test_the_format_gate_opens_for_well_formed_replies_only(
    replies: list[str], expected: int
) -> None:
    assert value("format", *replies) == expected
    all_think = all(reply.startswith("<think>") for reply in replies)
    assert value("thinking", *replies) == expected * all_think


def test_a_thought_that_was_not_parsed_from_the_raw_text_is_not_well_formed() -> None:
    forged = Reply(text="Hello there.", think="made up", raw="Hello there.")
    turn = Turn(reply=forged, reaction=Reaction(text="Hm.", emotion=40))
    episode = toy_episode("x").model_copy(update={"turns": (turn,)})
    assert reward("format")(episode).value == reward("thinking")(episode).value == 0


def test_length_is_full_within_the_band_and_fades_outside() -> None:
    def of(count: int) -> float:
        return value("length", "word " * count)

    assert of(SHORT) == of(LONG) == of(40) == 1
    assert of(0) == of(ENDLESS) == of(500) == 0
    assert of(1) < of(5) < 1
    assert of(150) < of(100) < 1


def test_length_is_the_mean_over_replies() -> None:
    assert value("length", "word " * 20, "") == 0.5


def test_words_are_counted_in_scripts_that_write_none_apart() -> None:
    assert words("I'm here, aren\u2019t I?") == ["i'm", "here", "aren't", "i"]
    assert len(words("听起来真的很难受")) == 4
    assert words("na\u00efve 42 \u2014 ...") == ["na\u00efve", "42"]


def test_repetition_counts_distinct_three_grams_across_replies() -> None:
    assert value("repetition", "a b c d", "e f g h") == 1
    assert value("repetition", "a b c d", "a b c d") == 0.5
    assert value("repetition", "ok", "ok", "ok", "ok") == 0.25


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("I can hear how much this hurts you.", "en", 1),
        ("Ich kann hören, wie sehr dich das schmerzt.", "en", 0),
        ("Je comprends que cette nouvelle soit difficile pour toi.", "en", 0),
        ("听起来真的很难。", "en", 0),
        ("听起来真的很难。", "zh", 1),
        ("I hear you.", "zh", 0),
        ("ありがとう、つらいですね。", "ja", 1),
        ("Мне очень жаль.", "ru", 1),
        ("qz xv kp trw bnm lkj hgf dsa", "en", 0),
        ("... !!", "en", 0),
        ("Oh no!", "en", 1),
        ("Hello.", "en-GB", 1),
    ],
)
def test_language_knows_the_script_and_english_its_function_words(
    text: str, code: str, expected: int
) -> None:
    assert value("language", text, language=code) == expected


def test_language_is_the_share_of_replies() -> None:
    assert value("language", "I hear you.", "听起来真的很难。") == 0.5


def test_a_language_without_a_known_script_gives_no_score() -> None:
    scenario = toy_scenario().model_copy(update={"language": "tlh"})
    score = reward("language")(toy_episode("nuqneH", scenario=scenario))
    assert score.value is None
    assert "'tlh'" in score.why


@pytest.mark.parametrize("name", ["format", "thinking", "length", "repetition", "language"])
def test_an_episode_without_replies_gives_no_score(name: str) -> None:
    assert reward(name)(toy_episode()).value is None


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("format", THOUGHT, "<think>" + THOUGHT),
        ("thinking", THOUGHT, "That sounds hard."),
        ("length", "word " * 20, "word " * 140),
        ("repetition", "a b c d e f", "a b c a b c a b c"),
        ("language", "I hear you, and this is hard for you.", "Ich höre dich, das ist so schwer."),
    ],
)
def test_each_part_alone_moves_the_total_of_a_sum(name: str, better: str, worse: str) -> None:
    total = reward(f"final+{name}")
    high, low = (total(toy_episode(text, emotions=(50,))) for text in (better, worse))
    assert high.value is not None
    assert low.value is not None
    assert high.parts["final"] == low.parts["final"]
    assert high.value > low.value
