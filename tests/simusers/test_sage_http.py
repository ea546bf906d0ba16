"""SAGE users whose model is behind HTTP: whole dialogues in two languages, and their audit."""

import json

import pytest

from heartloop.env.play import Task, play_many
from heartloop.env.threads import ThreadedWorld
from heartloop.env.verify import check
from heartloop.policy.base import make_policy
from heartloop.policy.serve.app import Served, make_app
from heartloop.rewards import reward
from heartloop.simusers.registry import STYLES, make_user
from heartloop.simusers.scenario import load, pack
from heartloop.types import Episode, StopReason
from tests.fakes import ToyPolicy
from tests.paths import data

PEOPLE = pack("test")[:6]


def listen(prompt):
    """Takes up what the person said last, in Chinese."""
    last = prompt.history[-1].content[:14]
    return f"你说“{last}”，换谁都会难受。聊到第{len(prompt.history)}句了，最让你放不下的是什么？"


@pytest.fixture(scope="module")
def url():
    with Served(make_app(["brain", "reflective"])) as server:
        yield server.base_url


def played(url, style, preset, people, policy, seed=3):
    """One dialogue with each person, at the same time."""
    world = ThreadedWorld(lambda: make_user(f"{style}:openai:brain@{url}", preset))
    return play_many(world, policy, [Task(s, seed) for s in people], reward("final"), batch=64)


def calls(episode):
    """Every call in the record of an episode."""
    reactions = [episode.opening, *(t.reaction for t in episode.turns if t.reaction)]
    return [call for reaction in reactions for call in reaction.record["calls"]]


def complaints(episode):
    return [str(found) for found in check(episode)]


@pytest.mark.parametrize("style", STYLES)
def test_users_of_every_style_play_whole_dialogues_that_can_be_verified(url, style):
    policy = make_policy(f"openai:reflective@{url}")
    episodes = played(url, style, "sage-eval", PEOPLE, policy)
    for episode in episodes:
        assert episode.stop in set(StopReason) - {StopReason.ERROR}, episode.error
        assert complaints(episode) == []
        assert episode.user == f"{make_user(f'{style}:openai:brain@{url}').id}"
    assert len({e.final for e in episodes}) > 1
    scored = sum(len(e.changes) for e in episodes)
    assert sum(map(len, map(calls, episodes))) >= scored * (1 if style == "sage-single" else 2)


def test_the_server_is_asked_for_json_and_its_own_name_is_kept(url):
    (episode,) = played(url, "sage", "sage-eval", PEOPLE[:1], make_policy("reflective"))
    assert {(c["model"], c["structured"], c["finish"]) for c in calls(episode)} == {
        ("brain", True, "stop")
    }
    assert all(c["prompt_tokens"] > 100 and c["request_id"] for c in calls(episode))


def test_the_same_seed_gives_the_same_dialogues_and_another_seed_others(url):
    def texts(seed):
        policy = make_policy("reflective")
        return [e.history for e in played(url, "sage", "default", PEOPLE[:3], policy, seed)]

    assert texts(3) == texts(3)
    assert texts(3) != texts(4)


def test_a_full_length_dialogue_has_one_reply_more_than_it_is_scored_for(url):
    policy = make_policy("reflective")
    whole = [
        e
        for e in played(url, "sage", "sage-eval", PEOPLE, policy)
        if e.stop is StopReason.TURN_LIMIT
    ]
    assert whole
    assert {(len(e.turns), len(e.changes)) for e in whole} == {(10, 9)}


@pytest.fixture(scope="module")
def row(url):
    """An episode as it lies in a file."""
    (episode,) = played(url, "sage", "default", PEOPLE[:1], make_policy("reflective"))
    return episode.model_dump_json()


def raw_change(reaction):
    call = next(c for c in reaction["record"]["calls"] if c["purpose"] == "appraise")
    answer = json.loads(call["raw"])
    call["raw"] = json.dumps(answer | {"change": 10 if answer["change"] < 10 else 9})


def unused(reaction):
    reaction["record"]["calls"][0]["used"] = False


def prompt_hash(reaction):
    reaction["record"]["calls"][0]["prompt_sha256"] = "0" * 64


def other_seed(reaction):
    reaction["record"]["calls"][0]["seed"] += 1


FORGERIES = [
    ("a raw answer", raw_change, "turns.1.reaction.change"),
    ("a change", lambda r: r.update(change=r["change"] + 1), "turns.1.reaction.change"),
    ("an emotion", lambda r: r.update(emotion=99.5), "turns.1.reaction.emotion"),
    ("a prompt hash", prompt_hash, "turns.1.reaction.record.calls.0.prompt_sha256"),
    ("a text", lambda r: r.update(text="I feel wonderful!"), "turns.1.reaction.text"),
    ("a farewell", lambda r: r.update(farewell=True), "turns.1.reaction.farewell"),
    ("a call passed over", unused, "turns.1"),
    ("a seed", other_seed, "turns.1"),
]


@pytest.mark.parametrize(
    ("forge", "named"), [f[1:] for f in FORGERIES], ids=[f[0] for f in FORGERIES]
)
def test_what_was_forged_in_a_record_is_named(row, forge, named):
    forged = json.loads(row)
    forge(forged["turns"][1]["reaction"])
    found = complaints(Episode.model_validate(forged))
    assert any(named in line for line in found), found


def test_an_honest_record_survives_its_file(row):
    assert complaints(Episode.model_validate_json(row)) == []


def test_a_forged_score_is_named(row):
    forged = json.loads(row)
    forged["score"]["value"] = 1.0
    assert any("score.value" in line for line in complaints(Episode.model_validate(forged)))


@pytest.mark.slow
def test_all_rlver_profiles_play_one_dialogue_that_can_be_verified(url):
    people = load(data("rlver/train_profile.jsonl"))
    assert len(people) == 500
    episodes = played(url, "sage-trainer", "rlver-train", people, ToyPolicy(listen))
    assert [e.error for e in episodes if e.error] == []
    assert all(any("\u4e00" <= c <= "\u9fff" for c in e.opening.text) for e in episodes)
    assert [(e.scenario.id, line) for e in episodes for line in complaints(e)] == []
