import re
import tomllib
from importlib.resources import files
from random import Random

import pytest

from heartloop.errors import UnknownName
from heartloop.policy import acts
from heartloop.simusers.phrases import content, words
from heartloop.types import Message

HISTORY = [
    Message(role="user", content="My aunt sold the piano that I practised on, and I feel hurt."),
    Message(role="assistant", content="So your aunt sold the piano."),
    Message(role="user", content="Yes. I painted the lid myself when I was nine."),
]
SAID = content(words(" ".join(m.content for m in HISTORY if m.role == "user")))


@pytest.mark.parametrize("act", acts.good())
def test_a_good_act_takes_up_the_persons_words(act):
    replies = [acts.say(act, HISTORY, Random(seed)) for seed in range(40)]
    feeling = {"hurt"}
    shared = [bool(SAID & content(words(r)) or feeling & set(words(r))) for r in replies]
    assert sum(shared) >= 36
    assert len(set(replies)) >= 20


@pytest.mark.parametrize("act", (*acts.good(), *acts.poor()))
def test_every_act_reads_as_whole_sentences(act):
    for seed in range(60):
        text = acts.say(act, HISTORY, Random(seed))
        assert not re.search(r"[<>{}]|  | ,|\.\.|,\.", text), text
        assert text[0].isupper()
        assert text[-1] in ".!?"
        assert text.isascii()
        assert len(text.split()) <= acts.LONGEST + 12


def test_an_act_is_the_same_for_the_same_seed():
    assert acts.say("rich", HISTORY, Random(3)) == acts.say("rich", HISTORY, Random(3))


@pytest.mark.parametrize("act", acts.good())
def test_an_act_speaks_even_when_nothing_was_told(act):
    for history in ([], [Message(role="user", content="...")]):
        assert acts.say(act, history, Random(1))


def test_an_act_avoids_what_was_said_before():
    history = list(HISTORY)
    for seed in range(8):
        reply = acts.say("reflect", history, Random(seed))
        assert reply not in [m.content for m in history]
        history.append(Message(role="assistant", content=reply))


def test_an_unknown_act_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'reflect'"):
        acts.say("reflekt", HISTORY, Random(0))


@pytest.mark.parametrize("name", ["acts.toml", "scripted.toml"])
def test_every_part_and_slot_of_the_data_is_known(name):
    data = tomllib.loads(files("heartloop.policy").joinpath(name).read_text("utf-8"))
    base = tomllib.loads(files("heartloop.policy").joinpath("acts.toml").read_text("utf-8"))
    parts = set(base["parts"]) | set(base["parts"]["poor"]) | set(data.get("parts", {}))
    text = files("heartloop.policy").joinpath(name).read_text("utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert set(re.findall(r"<(\w+)>", body)) <= parts
    slots = {"clause", "deed", "thing", "who", "adj", "noun", "need", "need2"}
    assert set(re.findall(r"\{(\w+)\}", body)) <= slots
