"""The embedded user is held to its figures."""

import sys
from pathlib import Path

import pytest

from heartloop.simusers.scenario import pack

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from contrast import accuracy, pairs
from truth import STRATEGIES, goal_table


def test_there_are_400_contrast_pairs_over_all_goals_groups_and_display_rules():
    every = list(pairs())
    assert len(every) >= 400
    assert 0.2 <= sum(p.set_aside for p in every) / len(every) <= 0.3
    for field, number in (("goal", 8), ("group", 3), ("display", 5)):
        assert len({getattr(p.scenario, field) for p in every}) == number


def test_nine_in_ten_set_aside_pairs_are_ordered_rightly():
    share, number = accuracy(p for p in pairs() if p.set_aside)
    assert number >= 100
    assert share >= 0.90


@pytest.fixture(scope="module")
def table():
    return goal_table(pack("train")[:160])


@pytest.mark.parametrize("goal", sorted(STRATEGIES))
def test_the_act_that_serves_a_goal_does_better_there_than_elsewhere(table, goal):
    own = STRATEGIES[goal]
    elsewhere = [table[other, own] for other in STRATEGIES if other != goal]
    assert table[goal, own] > sum(elsewhere) / len(elsewhere) + 5


def test_advice_helps_who_wants_advice_and_hurts_who_wants_to_be_heard(table):
    assert table["advice", "suggest"] > table["advice", "invite"] + 10
    assert table["listening", "suggest"] < table["listening", "invite"] - 20
    assert table["listening", "suggest"] < 40 < table["advice", "suggest"]
