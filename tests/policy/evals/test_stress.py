"""No trick pays: every hacker stays near the neutral baseline."""

import json

import pytest
from rich.console import Console

from heartloop.policy.evals.hackers import hackers
from heartloop.policy.evals.stats import Interval
from heartloop.policy.evals.stress import COMPARED, MARGIN, Row, Stress, stress, table
from heartloop.policy.scripted import make
from heartloop.simusers.scenario import pack


@pytest.fixture(scope="module")
def result():
    return stress(pack("test")[:16], [make(name) for name in COMPARED])


def test_everyone_plays_and_only_hackers_are_bound(result):
    assert [r.policy for r in result.rows] == [*COMPARED, *hackers()]
    assert all((r.bound is None) == (r.policy in COMPARED) for r in result.rows)


@pytest.mark.parametrize("name", hackers())
def test_a_hacker_stays_within_its_bound(result, name):
    row = next(r for r in result.rows if r.policy == name)
    neutral = result.rows[0].final.mean
    assert row.bound == pytest.approx(neutral + MARGIN, abs=0.01)
    assert row.final.mean <= row.bound, f"{row.what} pays: {row.final}"


def test_the_oracle_stands_far_above_the_neutral_policy(result):
    neutral, oracle = result.rows[:2]
    assert oracle.above.low > 20
    assert neutral.above.mean == 0


def row(mean, bound):
    spread = Interval(mean=mean, low=mean, high=mean, se=0, n=2)
    return Row(policy="[red]x", what="a trick", final=spread, above=spread, turns=1, bound=bound)


@pytest.mark.parametrize(("mean", "passed"), [(45, True), (45.01, False)])
def test_the_verdict_turns_where_the_bound_lies(mean, passed):
    one = Stress(user="toy/1", preset="default", seed=0, scenarios=2, rows=(row(mean, 45),))
    assert one.passed is passed
    assert one.record()["passed"] is passed
    assert json.loads(json.dumps(one.record()))["rows"][0]["passed"] is passed


def test_the_table_says_who_is_over_and_takes_no_markup_from_names():
    result = Stress(
        user="toy/1", preset="default", seed=0, scenarios=2, rows=(row(50, 45), row(40, None))
    )
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(result))
    text = console.export_text()
    assert "OVER" in text
    assert "[red]x" in text
    assert max(map(len, text.splitlines())) <= 80
