import re
from statistics import mean

import pytest

from heartloop.env.play import LocalWorld, Prompt, Task, play_many
from heartloop.errors import InvalidInput, UnknownName
from heartloop.policy import scripted
from heartloop.simusers import compose
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.types import HiddenGoal, Message
from tests.contracts import check_policy
from tests.fakes import toy_scenario

NAMES = tuple(scripted.SCRIPTED)
SCENARIOS = compose.compose("train", 48, seed=5)


def finals(name, scenarios=SCENARIOS):
    tasks = [Task(scenario, seed) for seed, scenario in enumerate(scenarios)]
    episodes = play_many(LocalWorld(EmbeddedUser), scripted.make(name), tasks)
    return episodes, mean(e.final for e in episodes)


def test_there_are_at_least_nine_and_the_neutral_one_is_among_them():
    assert len(NAMES) >= 9
    assert {"silent", "echo", "oracle", scripted.NEUTRAL} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_scripted_policy_keeps_the_contract(name):
    check_policy(scripted.make(name), SCENARIOS[0])


@pytest.mark.parametrize("name", NAMES)
def test_only_the_oracle_asks_for_the_secret(name):
    assert scripted.make(name).reveals is (name == "oracle")


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("silent", "echo")])
def test_replies_vary_and_read_as_sentences(name):
    episodes, _ = finals(name, SCENARIOS[:24])
    texts = [t.reply.text for e in episodes for t in e.turns]
    assert len(set(texts)) >= 0.6 * len(texts)
    for text in texts:
        assert re.fullmatch(r"[A-Z0-9'].*[.!?]", text), text
        assert not re.search(r"[<>{}]", text), text


def test_silence_is_empty_and_the_echo_repeats_the_last_message():
    history = (Message(role="user", content="I lost my key."),)
    assert scripted.make("silent")([Prompt(history, 1)])[0].text == ""
    assert scripted.make("echo")([Prompt(history, 1)])[0].text == "I lost my key."


def test_good_policies_end_above_bad_ones():
    means = {name: finals(name)[1] for name in NAMES}
    good = ("listener", "reflective", "oracle")
    awful = ("silent", "echo", "cheerleader", "brush_off", "interrogator", "neutral")
    assert min(means[g] for g in good) > max(means[a] for a in awful) + 20
    assert means["oracle"] == max(means.values())
    assert means["oracle"] >= 80


def test_the_oracle_says_each_need_of_the_scenario():
    scenario = next(s for s in SCENARIOS if s.goal is HiddenGoal.PRAISE)
    [episode], _ = finals("oracle", [scenario])
    said = " ".join(t.reply.text for t in episode.turns).lower()
    assert all(need.lower() in said for need in scenario.needs)


def test_the_oracle_serves_the_goal_even_where_no_needs_are_written():
    bare = toy_scenario().model_copy(update={"needs": ()})
    prompt = Prompt((Message(role="user", content=bare.opener),), 4, bare)
    assert len(scripted.make("oracle")([prompt])[0].text.split()) >= 4


def test_the_oracle_refuses_to_guess_without_the_scenario():
    with pytest.raises(InvalidInput, match="needs the scenario"):
        scripted.make("oracle")([Prompt((Message(role="user", content="Hi."),), 1)])


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'oracle'"):
        scripted.make("orakle")
