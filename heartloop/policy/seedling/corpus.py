"""The dialogues the seedling learns from: a mixed-quality helper talks with embedded users.

Only the train parts are used. In most stories names and things, or nearly all words, are exchanged
for random ones throughout, so that what the helper takes up has to be copied, not remembered.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from random import Random

from heartloop.policy import acts, wording
from heartloop.simusers import compose
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.types import Message, Scenario, Situation

STRONG = ("reflect", "feel", "meaning", "notice", "rich", "rich", "analysis")
MIDDLING = ("invite", "affirm", "agree", "motive", "insight", "suggest")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How good the scripted helper is, and how its stories are varied."""

    strong: float = 0.26
    """Share of turns with a good act, on average over dialogues."""
    middling: float = 0.32
    """Share of turns with an act that is specific and may miss; the rest is poor."""
    spread: float = 0.22
    """How far dialogues differ in these shares."""
    exchanged: float = 0.3
    """Share of stories with other names, things and relations."""
    scrambled: float = 0.4
    """Share of stories with nearly all words exchanged for others of their kind."""
    terse: float = 0.15
    """Share of stories told with few facts."""
    planned: float = 0.1
    """Share of dialogues with think blocks."""
    turns: int = 8


DRILL = Recipe(
    strong=0.6, middling=0.4, spread=0.0, exchanged=0.0, scrambled=1.0, planned=0.0, turns=2
)
"""Short dialogues in which nothing helps but copying: the first lesson."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue to learn from; replies carry think blocks when `planned`."""

    messages: tuple[Message, ...]
    planned: bool = False


@cache
def _words() -> dict[str, tuple[str, ...]]:
    text = files("heartloop.policy.seedling").joinpath("words.toml").read_text(encoding="utf-8")
    return {key: tuple(value.split()) for key, value in tomllib.loads(text).items()}


def dialogues(
    number: int, seed: int, recipe: Recipe | None = None, split: str = "train"
) -> Iterator[Dialogue]:
    """`number` dialogues, the same for the same seed; those of "test" are for measuring only."""
    recipe = recipe or Recipe()
    for index, scenario in enumerate(stories(number, seed, split)):
        rng = Random(f"{seed}:dialogue:{index}")
        yield play(_varied(scenario, recipe, rng), index, rng, recipe)


def stories(number: int, seed: int, split: str = "train") -> Iterator[Scenario]:
    """Scenarios of a split, composed a thousand at a time."""
    size = 2 * compose.PACK["train"]
    for start in range(0, number, size):
        yield from compose.compose(split, min(size, number - start), seed + start)


def play(scenario: Scenario, index: int, rng: Random, recipe: Recipe) -> Dialogue:
    """One dialogue of the helper with an embedded user."""
    user, planned = EmbeddedUser(), rng.random() < recipe.planned
    shift = rng.uniform(-recipe.spread, recipe.spread)
    mixed = replace(recipe, strong=recipe.strong + shift, middling=recipe.middling - shift / 3)
    reaction = user.open(scenario, index)
    messages = [Message(role="user", content=reaction.text)]
    for _ in range(recipe.turns):
        act = _act(mixed, rng)
        reply = acts.say(act, messages, rng)
        spoken = _plan(act, messages, rng) + reply if planned else reply
        messages.append(Message(role="assistant", content=reply))
        reaction = user.react(messages)
        messages[-1] = Message(role="assistant", content=spoken)
        messages.append(Message(role="user", content=reaction.text))
        if reaction.farewell:
            break
    return Dialogue(tuple(messages[:-1]), planned)


def _act(recipe: Recipe, rng: Random) -> str:
    draw = rng.random()
    if draw < recipe.strong:
        return rng.choice(STRONG)
    return rng.choice(MIDDLING if draw < recipe.strong + recipe.middling else acts.poor())


_PLANS = (
    "They sound {adj}. I will {act}.", "I hear {noun}. Best to {act}.",
    "Feeling: {adj}. Next: {act}.", "There is {noun} in it, so I {act}.",
)  # fmt: skip
_AIMS = {
    "reflect": "say back what happened",
    "feel": "name the feeling",
    "rich": "say back and stand by them",
    "meaning": "name what lies underneath",
    "notice": "look behind the tone",
    "analysis": "weigh both sides",
    "invite": "ask them to go on",
    "affirm": "honor what they did",
    "agree": "take their side",
    "motive": "guess at the other person",
    "insight": "ask what it means to them",
    "suggest": "offer one step",
    "stock": "comfort",
    "vague": "stay general",
    "cheer": "cheer them up",
    "advise": "tell them what to do",
    "interrogate": "ask for details",
    "minimise": "make it smaller",
    "chatbot": "explain in general",
    "hijack": "tell my own story",
    "blame": "point at their part",
    "sides": "defend the others",
}


def _plan(act: str, history: Sequence[Message], rng: Random) -> str:
    felt = wording.feeling(history, rng)
    plan = rng.choice(_PLANS).format(adj=felt.adjective, noun=felt.noun, act=_AIMS[act])
    return f"<think>{plan}</think> "


def _varied(scenario: Scenario, recipe: Recipe, rng: Random) -> Scenario:
    told = scenario.situation
    if rng.random() < recipe.terse:
        told = told.model_copy(update={"facts": told.facts[: rng.randrange(5)]})
    scenario = scenario.model_copy(update={"situation": told})
    draw = rng.random()
    if draw >= recipe.exchanged + recipe.scrambled:
        return scenario
    return _exchanged(scenario, rng, wholly=draw >= recipe.exchanged)


def _exchanged(scenario: Scenario, rng: Random, wholly: bool) -> Scenario:
    """The story with other names, things and relations; `wholly`: with other words."""
    told = scenario.situation
    texts = (scenario.opener, told.who, *told.facts)
    swaps = _swaps(texts, rng) | (_scramble(texts, rng) if wholly else {})
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, swaps)) + r")\b") if swaps else None

    def swap(text: str) -> str:
        return pattern.sub(lambda m: swaps[m[1]], text) if pattern else text

    fields = {"title", "who", "cause", "conflict", "tried", "stuck"}
    changed: dict[str, object] = {k: swap(getattr(told, k)) for k in fields}
    changed["facts"] = tuple(swap(f) for f in told.facts)
    situation: Situation = told.model_copy(update=changed)
    return scenario.model_copy(update={"opener": swap(scenario.opener), "situation": situation})


def _swaps(texts: Sequence[str], rng: Random) -> dict[str, str]:
    known = _words()
    swaps: dict[str, str] = {}
    for text in texts:
        for name in wording.names(text):
            swaps.setdefault(name, _name(rng))
        for thing in wording.things(text):
            noun = thing.split()[-1]
            if noun.islower() and noun not in swaps:
                swaps[noun] = rng.choice(known[_kind(noun)])
    return swaps


_ANY = re.compile(r"\b[A-Za-z][a-z]{2,}\b(?!')")


def _scramble(texts: Sequence[str], rng: Random) -> dict[str, str]:
    """Another word of its kind for nearly every word that carries content."""
    swaps: dict[str, str] = {}
    for word in dict.fromkeys(w for text in texts for w in _ANY.findall(text)):
        kind = _form(word)
        if kind:
            swaps[word] = _of_kind(kind, rng)
    return swaps


def _form(word: str) -> str:
    """The kind of a word by its list or its ending; "" for words that stay."""
    known = _words()
    for kind in ("numbers", "irregular", "relations", "days", "months"):
        if word in known[kind]:
            return kind
    if not word.islower() or word in wording.KEPT | wording.FELT:
        return ""
    if word.endswith(("ed", "ing")) and len(word) > 5:
        return "ed" if word.endswith("ed") else "ing"
    if word.endswith("ly"):
        return ""
    return "adjectives" if word in known["adjectives"] else _kind(word)


def _of_kind(kind: str, rng: Random) -> str:
    if kind in ("ed", "ing"):
        return rng.choice(_words()["verbs"]) + kind
    return rng.choice(_words()[kind])


def _kind(noun: str) -> str:
    if noun in _words()["relations"]:
        return "relations"
    return "plurals" if noun.endswith("s") and not noun.endswith("ss") else "nouns"


def _name(rng: Random) -> str:
    """A name from the list, or one made up of syllables."""
    known = _words()
    if rng.random() < 0.6:
        return rng.choice(known["names"])
    made = "".join(rng.choices(known["syllables"], k=rng.choice((1, 2, 2))))
    return (made + rng.choice(known["endings"])).capitalize()
