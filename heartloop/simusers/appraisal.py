"""Why an emotion changes: a small probabilistic program over five things a person asks of a reply.

Did it understand me, did it accept what I feel, did it serve what I came for, did it leave me my
own choice, was it a burden? A reading gives each of these a probability; a utility over their 32
joint states is enumerated exactly. The contribution of each is its Shapley value in the expected
utility, so that contributions add up (Shapley 1953; appraisal theory: Scherer, Schorr & Johnstone
2001). Weights are data, `appraisal.toml`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from itertools import product
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heartloop.simusers.lexical import is_severe
from heartloop.simusers.reading import Reading
from heartloop.types import DisplayRule, HiddenGoal, PersonaGroup, Scenario

VERSION = 2
VARIABLES = ("understood", "validated", "served", "autonomy", "burden")
Array = NDArray[np.float64]
_SPOILED = {v: 0.98 if v == "burden" else 0.02 for v in VARIABLES}
"""Beliefs after a reply with a grave offence: no good in it counts."""


@cache
def tables() -> dict[str, Any]:
    """The weights as written in the data file."""
    text = files("heartloop.simusers").joinpath("appraisal.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def weights_of(variable: str, goal: HiddenGoal, display: DisplayRule) -> dict[str, float]:
    """Feature weights of one variable for a person."""
    data = tables()
    if variable == "served":
        return dict(data["served"][goal.value])
    weights = dict(data["weights"][variable])
    if variable == "understood":
        for feature, weight in data.get("display", {}).get(display.value, {}).items():
            weights[feature] = weights.get(feature, 0.0) + weight
    return weights


@cache
def _program(goal: HiddenGoal, display: DisplayRule) -> tuple[tuple[float, dict[str, float]], ...]:
    bias = tables()["bias"]
    return tuple((bias[v], weights_of(v, goal, display)) for v in VARIABLES)


def believe(reading: Reading, scenario: Scenario) -> dict[str, float]:
    """The probability of each variable, given what was read."""
    if is_severe(reading.offences):
        return dict(_SPOILED)
    beliefs = {}
    program = _program(scenario.goal, scenario.display)
    for variable, (bias, weights) in zip(VARIABLES, program, strict=True):
        logit = bias + sum(weights.get(f, 0.0) * x for f, x in reading.features.items())
        beliefs[variable] = round(float(1 / (1 + np.exp(-logit))), 4)
    return beliefs


@cache
def _utility(group: PersonaGroup) -> Array:
    """Utility of the 32 joint states, shape (2, 2, 2, 2, 2), in points of emotion."""
    data, scale = tables()["utility"], tables()["group"].get(group.value, {})
    utility = np.zeros((2,) * len(VARIABLES))
    for state in product((0, 1), repeat=len(VARIABLES)):
        on = [v for v, bit in zip(VARIABLES, state, strict=True) if bit]
        utility[state] = data["offset"] + sum(data[v] * scale.get(v, 1.0) for v in on)
        pairs = (k for k in data if "_" in k and set(k.split("_")).issubset(on))
        utility[state] += sum(data[k] for k in pairs)
    return utility


@cache
def _shapley() -> Array:
    """Shape (5, 32): the weight of each coalition's worth in each variable's Shapley value."""
    n = len(VARIABLES)
    weights = np.zeros((n, 2**n))
    for number, state in enumerate(product((0, 1), repeat=n)):
        size = sum(state)
        for i, present in enumerate(state):
            others = size - present
            share = factorial(others) * factorial(n - others - 1) / factorial(n)
            weights[i, number] = share if present else -share
    return weights


def contributions(beliefs: dict[str, float], group: PersonaGroup) -> dict[str, float]:
    """Shapley values of the beliefs against the prior, and the prior's own worth as "baseline".

    Returns:
        Points of emotion; they add up to the expected utility under `beliefs`.
    """
    prior = tables()["prior"]
    worth = _utility(group)
    for axis, variable in enumerate(VARIABLES):
        rows = [[1 - q, q] for q in (prior[variable], beliefs[variable])]
        worth = np.moveaxis(np.tensordot(np.array(rows), worth, axes=(1, axis)), 0, axis)
    values = _shapley() @ worth.reshape(-1)
    # The last bits depend on the machine; nothing that is rounded later may hang on them.
    parts = {v: round(float(x), 9) for v, x in zip(VARIABLES, values, strict=True)}
    return parts | {"baseline": round(float(worth[(0,) * len(VARIABLES)]), 9)}
