"""Checks of specs, sums, gates and adapters."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.errors import InvalidInput, UnknownName
from heartloop.rewards import BUILTIN, Measure, Term, Weighted, function, reward
from heartloop.types import Episode, Score
from tests.contracts import check_reward
from tests.fakes import toy_episode

EPISODE = toy_episode("That sounds hard.", "What happened then?", emotions=(46.0, 52.0))


def half(episode: Episode) -> float:
    """A reward of the user's own."""
    return 0.5


def nothing(episode: Episode) -> None:
    """A reward that abstains."""


def endless(episode: Episode) -> float:
    """A reward that broke."""
    return float("inf")


def wordy(episode: Episode) -> str:
    """No reward at all."""
    return "good"


def whole(episode: Episode) -> Score:
    """A reward with parts."""
    return Score(value=0.25, parts={"depth": 0.75})


def constant(name: str, value: float | None, *, gate: bool = False) -> Measure:
    return Measure(name, lambda episode: Score(value=value, why="" if value else "because"), gate)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_built_in_reward_keeps_the_contract(name: str) -> None:
    check_reward(reward(name))


@pytest.mark.parametrize("spec", ["final+0.1*length+format", "gain+-0.5*repetition", "2.0*final"])
def test_a_sum_keeps_the_contract_of_a_reward(spec: str) -> None:
    check_reward(reward(spec))


def test_a_sum_adds_weighted_parts_and_names_them() -> None:
    score = reward("final+0.1*length+-2*gain")(EPISODE)
    assert score.parts == {"final": 0.52, "length": pytest.approx(0.3), "gain": 0.12}
    assert score.value == pytest.approx(0.52 + 0.03 - 0.24)


@pytest.mark.parametrize("weight", [0.1, 1, -0.5])
def test_changing_one_part_alone_changes_the_total_by_its_weight(weight: float) -> None:
    def total(value: float) -> float:
        given = (Term(constant("a", value), weight), Term(constant("b", 0.3)))
        result = Weighted(*given)(EPISODE).value
        assert result is not None
        return result

    assert total(0.9) - total(0.4) == pytest.approx(weight * 0.5)


@given(st.floats(-10, 10), st.sampled_from([0.0, 1.0]))
def test_a_closed_gate_leaves_nothing_above_zero_and_lifts_nothing(
    value: float, gate: float
) -> None:
    total = Weighted(Term(constant("a", value)), Term(constant("g", gate, gate=True)))(EPISODE)
    assert total.value == (value if gate else min(value, 0))
    assert total.parts["g"] == gate


def test_a_part_without_score_leaves_the_sum_without_score_and_says_why() -> None:
    lost = Weighted(Term(constant("a", 1.0)), Term(constant("b", None), 0.1))(EPISODE)
    assert lost.value is None
    assert lost.why == "b: because"
    assert lost.parts == {"a": 1.0}


def test_a_part_of_weight_zero_may_stay_without_score() -> None:
    score = Weighted(Term(constant("a", 1.0)), Term(constant("b", None), 0))(EPISODE)
    assert score.value == 1.0


def test_a_reward_by_import_path_is_called_with_the_episode() -> None:
    assert function(f"{__name__}:half")(EPISODE) == Score(value=0.5)
    score = reward(f"final+2*{__name__}:whole")(EPISODE)
    assert score.value == pytest.approx(0.52 + 0.5)
    assert score.parts[f"{__name__}:whole.depth"] == 0.75


def test_a_reward_that_abstains_or_breaks_gives_no_score_and_names_itself() -> None:
    for name in ("nothing", "endless"):
        score = function(f"{__name__}:{name}")(EPISODE)
        assert score.value is None
        assert name in score.why


def test_a_reward_that_gives_no_number_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"must return a float.*'good'"):
        function(f"{__name__}:wordy")(EPISODE)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("half", "expected a path"),
        (":half", "expected a path"),
        ("no_such_module_here:half", "cannot import"),
        (f"{__name__}:missing", "has no function"),
        (f"{__name__}:EPISODE", "has no function"),
    ],
)
def test_a_bad_path_is_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        function(path)


def test_an_unknown_reward_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'final'"):
        reward("finale")


@pytest.mark.parametrize(
    "spec", ["", "+", "final+", "final gain", "*final", "nan*final", "final,gain"]
)
def test_an_unreadable_spec_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput, match="expected a reward like"):
        reward(spec)


@pytest.mark.parametrize("spec", ["final+final", "0.5*format+final", "format+format", "1e999*gain"])
def test_a_sum_that_makes_no_sense_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput):
        reward(spec)


def test_import_paths_can_be_forbidden() -> None:
    with pytest.raises(InvalidInput, match="not allowed here"):
        reward("final+os:getcwd", functions=False)


@given(st.text(max_size=40))
def test_no_spec_whatever_raises_anything_but_invalid_input(spec: str) -> None:
    with suppress(InvalidInput):
        reward(spec, functions=False)
