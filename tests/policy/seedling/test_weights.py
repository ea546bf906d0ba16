"""The shipped seedling: size, form, and that it speaks."""

import json
import re

import pytest

from heartloop.policy.base import SEEDLING, make_policy
from heartloop.policy.evals.stats import commonest
from heartloop.policy.model import Sampling
from heartloop.policy.seedling import card, measure
from heartloop.policy.seedling.measure import Facts
from heartloop.types import Reply

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def drawn():
    return measure.play(make_policy("seedling", Sampling()), 16)


def test_the_files_are_complete_small_and_without_pickle():
    found = {p.name: p.stat().st_size for p in SEEDLING.iterdir()}
    assert set(found) == set(card.PARTS)
    assert sum(found.values()) <= card.LARGEST


def test_it_is_a_qwen3_of_a_few_million_parameters():
    model = make_policy("seedling").model
    assert model.model.config.model_type == "qwen3"
    assert 2.5e6 <= sum(p.numel() for p in model.model.parameters()) <= 4.5e6


def test_it_takes_up_what_unseen_people_say(drawn):
    found = measure.summed("seedling", drawn)
    assert found.either >= 0.5
    assert found.distinct_2 >= 0.3
    assert 8 <= found.length <= 28


def test_it_leaves_room_to_learn(drawn):
    assert 12 <= measure.summed("seedling", drawn).final <= 40


def test_it_does_what_its_card_says(drawn):
    card_row = Facts.model_validate_json((SEEDLING / "figures.json").read_text("utf-8")).figures[0]
    found = measure.summed("seedling", drawn)
    assert abs(found.either - card_row.either) <= 0.1
    assert abs(found.final - card_row.final) <= 8


def test_greedy_replies_are_sentences_on_topic():
    episodes = measure.play(make_policy("seedling", Sampling(temperature=0)), 8)
    texts = [t.reply.text for e in episodes for t in e.turns]
    assert measure.summed("seedling", episodes).either >= 0.8
    assert sum(bool(re.fullmatch(r"[A-Z].*[.!?]", t)) for t in texts) >= 0.95 * len(texts)
    assert commonest(texts)[1] <= 0.1


def test_it_never_thinks_aloud_unless_asked(drawn):
    assert not any("<" in t.reply.text for e in drawn for t in e.turns)


def test_it_plans_when_asked():
    episodes = measure.play(make_policy("seedling", thinking=True), 4)
    replies: list[Reply] = [t.reply for e in episodes for t in e.turns]
    assert sum(bool(r.think) for r in replies) >= 0.9 * len(replies)


def test_the_card_agrees_with_the_figures():
    text = (SEEDLING / "README.md").read_text("utf-8")
    facts = Facts.model_validate_json((SEEDLING / "figures.json").read_text("utf-8"))
    config = json.loads((SEEDLING / "config.json").read_text("utf-8"))
    assert f"{facts.figures[0].final} [{facts.figures[0].low}" in text
    assert f"{config['vocab_size']} byte-level" in text
    assert "Apache-2.0" in text
