"""Figures with their uncertainty."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.errors import InvalidInput
from heartloop.policy.evals.stats import commonest, distinct, interval, paired, standard_error

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def test_the_standard_error_of_one_to_five_is_known():
    assert standard_error([1, 2, 3, 4, 5]) == pytest.approx(math.sqrt(2.5 / 5))


def test_a_single_value_has_no_standard_error():
    assert standard_error([3]) is None
    assert (interval([3]).low, interval([3]).high, interval([3]).se) == (3, 3, None)


@given(numbers)
def test_an_interval_holds_its_mean_and_stays_within_the_values(values):
    found = interval(values, draws=50)
    assert found.low <= found.mean <= found.high
    assert found.low >= min(values) - 1e-6
    assert found.high <= max(values) + 1e-6
    assert found.n == len(values)


def test_an_interval_is_about_as_wide_as_theory_says():
    values = [n % 10 for n in range(400)]
    found = interval(values)
    width = 2 * 1.96 * standard_error(values)
    assert found.high - found.low == pytest.approx(width, rel=0.08)


def test_same_seed_same_interval_other_seed_another():
    values = [n**1.5 for n in range(40)]
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)


def test_draws_beyond_one_chunk_are_all_used():
    assert interval([0.0, 1.0], draws=251).n == 2


def test_pairs_are_compared_item_by_item():
    before, after = [0, 50, 100], [10, 60, 110]
    found = paired(before, after)
    assert (found.mean, found.low, found.high) == (10, 10, 10)


def test_pairs_of_unequal_numbers_are_refused():
    with pytest.raises(InvalidInput, match="1 and 2"):
        paired([1], [1, 2])


@pytest.mark.parametrize("values", [[], [math.nan], [1, math.inf]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(InvalidInput):
        interval(values)


def test_distinct_counts_different_pairs_of_words_over_all():
    assert distinct(["a b a b"]) == pytest.approx(2 / 3)
    assert distinct(["a b", "A B"]) == pytest.approx(1 / 2)
    assert distinct(["a b c"], n=1) == 1
    assert distinct(["", "alone"]) == 0


def test_pairs_do_not_reach_across_texts():
    assert distinct(["a b", "b a"]) == 1


@given(st.lists(st.text(alphabet="ab ", max_size=12), max_size=8))
def test_distinct_is_a_share(texts):
    assert 0 <= distinct(texts) <= 1


def test_the_commonest_text_is_found_whatever_its_case_and_outer_space():
    assert commonest(["Yes.", "yes. ", "no"]) == ("yes.", pytest.approx(2 / 3))
    assert commonest([]) == ("", 0)


def test_a_tie_of_commonest_texts_does_not_depend_on_order():
    assert commonest(["b", "a"]) == commonest(["a", "b"]) == ("a", 0.5)
