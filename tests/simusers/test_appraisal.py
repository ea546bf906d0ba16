import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.simusers import appraisal
from heartloop.simusers.lexical import LexicalReader
from heartloop.simusers.phrases import words
from heartloop.simusers.reading import Context, Reading
from heartloop.simusers.scenario import pack
from heartloop.types import HiddenGoal, PersonaGroup

probabilities = st.floats(0, 1)
beliefs = st.fixed_dictionaries(dict.fromkeys(appraisal.VARIABLES, probabilities))
groups = st.sampled_from(list(PersonaGroup))


def expected_utility(q: dict[str, float], group: PersonaGroup) -> float:
    """Brute force over the 32 joint states."""
    utility, total = appraisal._utility(group), 0.0
    for state in itertools.product((0, 1), repeat=5):
        chance = 1.0
        for v, bit in zip(appraisal.VARIABLES, state, strict=True):
            chance *= q[v] if bit else 1 - q[v]
        total += chance * utility[state]
    return total


@given(beliefs, groups)
def test_contributions_add_up_to_the_enumerated_expected_utility(q, group):
    assert sum(appraisal.contributions(q, group).values()) == pytest.approx(
        expected_utility(q, group),
        abs=1e-8,  # six values, each rounded to nine digits
    )


@given(groups)
def test_the_prior_contributes_nothing_but_its_baseline(group):
    prior = appraisal.tables()["prior"]
    parts = appraisal.contributions(prior, group)
    assert all(abs(parts[v]) < 1e-9 for v in appraisal.VARIABLES)
    assert parts["baseline"] == pytest.approx(expected_utility(prior, group))


@given(beliefs, groups, st.sampled_from(appraisal.VARIABLES), st.floats(0.01, 0.5))
@settings(max_examples=60)
def test_more_of_a_good_thing_never_lowers_its_contribution(q, group, variable, more):
    raised = q | {variable: min(1.0, q[variable] + more)}
    gap = (
        appraisal.contributions(raised, group)[variable]
        - appraisal.contributions(q, group)[variable]
    )
    assert gap <= 1e-9 if variable == "burden" else gap >= -1e-9


@pytest.mark.parametrize("goal", list(HiddenGoal))
def test_a_grave_offence_spoils_whatever_good_a_reply_holds(goal):
    s = next(s for s in pack("test") if s.goal is goal)
    spoiled = appraisal.believe(Reading({"meaning": 1.0, "need": 1.0}, ("order",)), s)
    assert spoiled["served"] < 0.05 < 0.95 < spoiled["burden"]


def test_every_feature_that_has_a_weight_can_be_found_by_the_reader():
    reader, known = LexicalReader(), set()
    texts = (line for table in _lexicon().values() for line in table)
    scenario = pack("test")[0]
    known |= {f"off_{k}" for k in _raw()["offences"]} | set(_raw()["acts"])
    for text in itertools.chain(
        texts, ("", "?! ?! ?", "grief! relief! joy! wow!", scenario.opener)
    ):
        known |= set(reader.read(text, Context(scenario, (scenario.opener,), (text,))).features)
    known |= {
        "question",
        "interrogate",
        "long",
        "endless",
        "felt_close",
        "felt_exact",
        "felt_wrong",
        "cheer",
        "need",
        "fresh",
    }
    data = appraisal.tables()
    used = {f for v in ("weights", "served", "display") for row in data[v].values() for f in row}
    assert used <= known


def _raw() -> dict:
    import tomllib
    from importlib.resources import files

    return tomllib.loads(files("heartloop.simusers").joinpath("lexicon/en.toml").read_text("utf-8"))


def _lexicon() -> dict[str, list[str]]:
    raw = _raw()
    return {k: [x.replace("|", " ") for x in v] for k, v in (raw["acts"] | raw["offences"]).items()}


def test_a_phrase_table_finds_contractions_choices_and_gaps():
    from heartloop.simusers.phrases import Phrases

    table = Phrases({"a": ["it is not just about"], "b": ["so|very * tired"], "c": ["you _ me"]})
    assert table.count(words("It's not just about the bus.")) == [1, 0, 0]
    assert table.count(words("So very, very, terribly tired")) == [0, 2 - 1, 0]
    assert table.count(words("So. What a day, tired")) == [0, 0, 0]
    assert table.count(words("You told me")) == [0, 0, 1]


def test_no_process_sums_in_another_order():
    code = (
        "from heartloop.simusers import appraisal; from heartloop.types import PersonaGroup;"
        "print(*(appraisal._utility(group).tobytes().hex() for group in PersonaGroup))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
            cwd=Path(__file__).resolve().parents[2],
        ).stdout
        for seed in range(4)
    }
    assert len(told) == 1
