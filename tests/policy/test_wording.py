from random import Random

import pytest

from heartloop.policy import wording
from heartloop.types import Message

OPENER = "My manager took the red folder from my desk on Friday, and I feel humiliated."


def said(*texts):
    return [Message(role="user", content=text) for text in texts]


@pytest.mark.parametrize(
    ("text", "flipped"),
    [
        ("I lost my key", "you lost your key"),
        ("he told me I was late", "he told you you were late"),
        ("I'm tired and I've had it", "you're tired and you've had it"),
        ("My sister and I wasn't asked", "Your sister and you weren't asked"),
        ("She was late and it was ours", "She was late and it was yours"),
        ("I never was good at it", "you never were good at it"),
        ("we hurt ourselves", "you hurt yourselves"),
    ],
)
def test_flip_exchanges_the_persons(text, flipped):
    assert wording.flip(text) == flipped


def test_flip_leaves_a_text_without_persons_alone():
    assert wording.flip("The bus to Leeds was late.") == "The bus to Leeds was late."


def test_a_clause_is_flipped_and_fits_into_a_sentence():
    found = wording.clauses(OPENER)
    assert "your manager took the red folder from your desk on Friday" in found


def test_questions_quotes_and_talk_about_the_helper_are_no_clauses():
    assert wording.clauses("Why did she leave me alone there?") == []
    assert wording.clauses("She said, 'you are the one to blame'.") == []
    assert wording.clauses("You only told me what I said before.") == []


def test_things_are_short_noun_phrases():
    assert wording.things(OPENER) == ["your manager", "the red folder", "your desk"]


def test_a_thing_ends_before_the_verb():
    assert wording.things("My sister told me and the heating broke on Monday") == [
        "your sister",
        "the heating",
    ]


def test_people_are_relations_and_names_but_no_weekdays():
    assert wording.people("My sister met Marisol on Friday.") == ["your sister", "Marisol"]


def test_the_feeling_that_was_said_wins_over_hints():
    history = said("The funeral was on Monday and I cried.", "Mostly I am angry at the priest.")
    assert wording.feeling(history, Random(0)).adjective == "angry"


def test_a_feeling_is_guessed_from_hints():
    history = said("We carried the urn to the grave.")
    assert wording.feeling(history, Random(0)).noun == "grief"


def test_material_takes_the_latest_message_first_and_leaves_greetings_out():
    history = said(OPENER, "Not bad, I guess. I emptied my locker on Monday.")
    found = wording.material(history, Random(0))
    assert found.clauses[0] == "you emptied your locker on Monday"
    assert found.deeds == ("you emptied your locker on Monday",)
    assert found.things[0] == "your locker"
    assert found.people == ("your manager",)


@pytest.mark.parametrize("texts", [(), ("",), ("Hi!", "   "), ("\u2026",), ("\u0421\u043f\u0430",)])
def test_material_of_nothing_is_empty_and_no_error(texts):
    found = wording.material(said(*texts), Random(0))
    assert (found.clauses, found.things, found.people) == ((), (), ())


def test_tidy_mends_capitals_spaces_and_marks():
    assert wording.tidy("so it was. it hurts , .  you know?.") == "So it was. It hurts. You know?"
