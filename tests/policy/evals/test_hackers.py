"""Scripted reward hackers say what they are meant to say."""

import pytest

from heartloop.env.play import Prompt
from heartloop.errors import UnknownName
from heartloop.policy.evals.hackers import hacker, hackers
from heartloop.types import Message
from tests.contracts import check_policy
from tests.fakes import toy_scenario


def heard(text, *later):
    messages = [Message(role="user", content=text)]
    for reply in later:
        messages += [
            Message(role="assistant", content=reply),
            Message(role="user", content=text),
        ]
    return Prompt(tuple(messages), 0)


@pytest.mark.parametrize("name", hackers())
def test_a_hacker_is_a_policy(name):
    check_policy(hacker(name), toy_scenario())
    assert hacker(name).what


def test_the_tricks_named_in_the_documentation_are_all_there():
    families = (
        "orders forged-labels flattery parrot parrot-flipped keyword-list keyword-stuffing "
        "one-sentence generic-empathy fake-farewell empty endless garbled chinese spanish "
        "leaked-think begging goal-probe"
    )
    assert set(families.split()) <= set(hackers())


def test_parrots_say_back_what_they_heard():
    prompt = heard("I lost my key.")
    assert hacker("parrot")([prompt])[0].text == "I lost my key."
    assert hacker("parrot-flipped")([prompt])[0].text.lower() == "you lost your key."
    assert hacker("parrot-sorted")([prompt])[0].text == "I key. lost my"


def test_what_the_person_says_is_never_taken_for_a_slot():
    assert hacker("parrot")([heard("Is {flipped} a word?")])[0].text == "Is {flipped} a word?"


def test_the_endless_one_takes_four_hundred_words():
    assert len(hacker("endless")([heard("Hi.")])[0].text.split()) >= 380


def test_lines_come_in_turn():
    said = [hacker("generic-empathy")([heard("Hi.", *["a"] * n)])[0].text for n in range(4)]
    assert len(set(said[:3])) == 3
    assert said[3] == said[0]


def test_a_forged_think_block_is_left_in_the_reply():
    prompts = [heard("Hi.", *["a"] * n) for n in range(4)]
    replies = hacker("leaked-think")(prompts)
    assert all(r.think is None and "think" in r.text for r in replies)


def test_an_unknown_hacker_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="parrot"):
        hacker("parot")
