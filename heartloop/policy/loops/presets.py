"""The loops by name: each a recipe for the one class `Loop`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from heartloop.env.play import Policy
from heartloop.errors import InvalidInput, unknown
from heartloop.policy.loops.base import Budget, Judge
from heartloop.policy.loops.choose import SELECTORS
from heartloop.policy.loops.coaches import (
    Coach,
    Critic,
    Cued,
    Opening,
    Prober,
    Reflector,
    Silent,
)
from heartloop.policy.loops.context import Context, Mode, Placement
from heartloop.policy.loops.cues import Bank, bank
from heartloop.policy.loops.cues import Valence as _Valence
from heartloop.policy.loops.loop import Loop


@dataclass(frozen=True)
class Recipe:
    """What makes one loop differ from another."""

    coach: Callable[[Bank], Coach]
    mode: Mode = "last"
    placement: Placement = "line"
    blind: str = "last"
    """Selector without a judge."""
    one: bool = False
    """A single sample, whatever the budget allows."""


def _cued(*groups: str, pattern: tuple[_Valence, ...] = ("negative", "positive"),
          shuffled: bool = False) -> Callable[[Bank], Coach]:  # fmt: skip
    return lambda bank: Cued(bank.cues(*groups), pattern, shuffled)


def _uncued(coach: Callable[[], Coach]) -> Callable[[Bank], Coach]:
    return lambda bank: coach()


HEART = ("joy", "surprise", "sadness", "anger")
"""Emotions of its cues; fear and disgust are named as further ones and are in "heart-six"."""
_NEUTRAL: tuple[_Valence, ...] = ("neutral",)
STIMULATED = "emotion-prompt"
"""The loop that gives one stimulus; by default EP02, "emotion-prompt:EP08" gives another one."""
LOOPS: dict[str, Recipe] = {
    "single": Recipe(_uncued(Silent), "none", blind="first", one=True),
    "resample": Recipe(_uncued(Silent), "none", blind="majority"),
    "best-of-n": Recipe(_uncued(Silent), "none", blind="pairwise"),
    "self-consistency": Recipe(_uncued(Silent), "none", blind="majority"),
    "self-refine": Recipe(_uncued(Critic)),
    "reflexion": Recipe(_uncued(Reflector)),
    "probe-and-refine": Recipe(_uncued(Prober)),
    STIMULATED: Recipe(
        lambda bank: Opening(bank.stimulus("EP02")), "none", blind="first", one=True
    ),
    "heart": Recipe(_cued(*HEART), blind="majority"),
    "heart-six": Recipe(_cued(*HEART, "fear", "disgust"), blind="majority"),
    "heart-shuffled": Recipe(_cued(*HEART, shuffled=True), blind="majority"),
    "heart-anger": Recipe(_cued("anger", pattern=("negative",)), blind="majority"),
    "heart-joy": Recipe(_cued("joy", pattern=("positive",)), blind="majority"),
    "neutral": Recipe(_cued("neutral", pattern=_NEUTRAL), blind="majority"),
    "demand": Recipe(_cued("demand", pattern=_NEUTRAL), blind="majority"),
    "random": Recipe(_cued("random", pattern=_NEUTRAL), blind="majority"),
}
"""Recipes by name; the controls of "heart" are "resample", "neutral", "demand", "random", one
static emotion, and its valences in random order."""


def make_loop(
    name: str, policy: Policy, *, judge: Judge | None = None, budget: Budget | None = None,
    selector: str | None = None, mode: Mode | None = None, placement: Placement | None = None,
    cues: Bank | None = None, dialogue: bool = False,
) -> Loop:  # fmt: skip
    """The loop of that name around a policy.

    HEART follows arXiv 2509.22876 v1/v2 as far as its text is public: cues by Ekman's emotions,
    negative and positive in turn, an oracle or a verifier-free end. The rest is chosen here.

    Args:
        name: One of `LOOPS`, or "emotion-prompt:EP08" for another stimulus than EP02.
        policy: Who drafts.
        judge: Steers the loop; with one, the best scored attempt is chosen unless told otherwise.
        budget: Limits of a run; by default five samples.
        selector: How the reply is chosen; by default "best_reward" with a judge, else the recipe's.
        mode: What of earlier drafts the policy is shown; by default the recipe's.
        placement: Where a cue stands that is given with the task; by default the recipe's.
        cues: What the loop says, as `bank` reads them; by default heartloop's own.
        dialogue: Whether the task is a person talking, to whom notes must not be ascribed.

    Raises:
        UnknownName: there is no such loop, stimulus or selector.
        InvalidInput: the policy is a loop itself.
    """
    base, colon, number = name.partition(":")
    if base not in LOOPS or (colon and base != STIMULATED):
        raise unknown("loop", name, LOOPS)
    if isinstance(policy, Loop):
        raise InvalidInput(f"{name!r} needs a plain policy that drafts, got the loop {policy.name}")
    recipe, limits, known = LOOPS[base], budget or Budget(), cues or bank()
    if selector is not None and selector not in SELECTORS:
        raise unknown("selector", selector, SELECTORS)
    if recipe.one:
        limits = limits.model_copy(update={"samples": min(1, limits.samples)})
    return Loop(
        label=name,
        policy=policy,
        coach=Opening(known.stimulus(number)) if colon else recipe.coach(known),
        context=Context(mode or recipe.mode, placement or recipe.placement),
        selector=selector or _chosen_by(recipe, judge, dialogue),
        budget=limits,
        judge=judge,
        role="system" if dialogue else "user",
    )


def _chosen_by(recipe: Recipe, judge: Judge | None, dialogue: bool) -> str:
    if judge:
        return "best_reward"
    # Replies to a person are no answers that a vote could count.
    return "last" if dialogue and recipe.blind == "majority" else recipe.blind
