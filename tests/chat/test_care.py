import tomllib
from pathlib import Path

import pytest

from heartloop.chat import care
from heartloop.errors import UnknownName

LINES = tomllib.loads((Path(__file__).parent / "crisis.toml").read_text("utf-8"))


def missed(kind: str) -> list[str]:
    return [line for line in LINES[kind] if care.risk(line) is None]


def alarms(kind: str) -> list[str]:
    return [line for line in LINES[kind] if care.risk(line) is not None]


def test_the_set_has_at_least_a_hundred_lines_in_two_languages():
    every = [line for lines in LINES.values() for line in lines]
    assert len(every) == len(set(every)) >= 100
    assert sum(care.language(line) == "zh" for line in every) >= 30


def test_explicit_risk_is_found():
    assert len(missed("explicit")) <= 0.05 * len(LINES["explicit"]), missed("explicit")


def test_indirect_risk_is_found():
    assert len(missed("indirect")) <= 0.20 * len(LINES["indirect"]), missed("indirect")


def test_idioms_negations_and_plain_grief_raise_few_alarms():
    calm = ("negated", "idiom", "plain")
    wrong = [line for kind in calm for line in alarms(kind)]
    assert len(wrong) <= 0.05 * sum(len(LINES[kind]) for kind in calm), wrong


def test_explicit_risk_outranks_indirect_risk():
    found = care.risk("I'm a burden to everyone. I want to kill myself.")
    assert found == care.Risk(care.Level.EXPLICIT, "en")
    assert care.risk("I'm a burden to everyone.") == care.Risk(care.Level.INDIRECT, "en")


def test_a_negation_holds_in_its_own_clause_only():
    assert care.risk("I'm not joking, I want to die.")
    assert care.risk("I don't want to die but I can't stop thinking about suicide")
    assert not care.risk("I don't want to die, I want to sleep.")


@pytest.mark.parametrize(
    "text",
    [
        "Are you a real person?",
        "are you human",
        "Am I talking to a bot?",
        "你是真人吗？",
        "Who are you?",
    ],
)
def test_asking_what_it_is_is_understood(text):
    assert care.asks_if_ai(text)


def test_other_questions_do_not_ask_what_it_is():
    assert not care.asks_if_ai("Are you saying I am wrong? What are you up to?")
    assert not care.asks_if_ai("I talked to a person at the bank.")


@pytest.mark.parametrize(
    "place, line",
    [("us", "988"), ("gb", "116 123"), ("ie", "116 123"), ("DE", "112"), ("cn", "12356"),
     ("international", "findahelpline.com")],
)  # fmt: skip
@pytest.mark.parametrize("script", ["en", "zh"])
def test_a_referral_names_the_line_of_its_region_and_the_list_for_all(place, line, script):
    text = care.referral(place, script)
    assert line in text and "findahelpline.com" in text and "{" not in text


def test_an_unknown_region_is_named_with_those_known():
    with pytest.raises(UnknownName, match="known: cn, eu, gb, ie, international, us"):
        care.referral("atlantis", "en")


@pytest.mark.parametrize(
    "setting, region",
    [("en_US.UTF-8", "us"), ("de_DE", "eu"), ("zh_CN.UTF-8", "cn"), ("C", "international"),
     ("pt_BR", "international"), ("", "international")],
)  # fmt: skip
def test_the_region_follows_from_the_settings_of_the_system(setting, region):
    assert care.region({"LANG": setting}) == region


def test_every_line_names_where_it_can_be_checked():
    rows = tomllib.loads((Path(care.__file__).parent / "care.toml").read_text("utf-8"))["lines"]
    assert all(
        row["source"].startswith("https://") and row["en"] and row["zh"] for row in rows.values()
    )
