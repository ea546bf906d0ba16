"""The emotion ontology that every room shares: a tree of feelings, their words and distances.

The tree is Parrott's three tiers (W. G. Parrott, 2001, *Emotions in Social Psychology*): six
primary emotions, the secondary ones under each, and the tertiary words under those. Every node
has a valence and an arousal in [-1, 1], the axes of Russell's circumplex (J. A. Russell, 1980,
"A circumplex model of affect"); those numbers are this project's own estimates. A few nodes that
Parrott lacks are added and listed in `Ontology.extensions`; one of them, ``neutral``, stands
beside the six primaries with no children, at valence 0 and arousal 0.

All of it is data (``heartloop/data/emotion.toml``), read once, on first use. The functions are
pure and take node names; `resolve` turns a person's word into one.
"""

import functools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from types import MappingProxyType
from typing import Any

from heartloop.errors import UnknownEmotion, unknown

__all__ = [
    "VIEWS",
    "Band",
    "Emotion",
    "Ontology",
    "band",
    "cooccurrence",
    "distance",
    "normalise",
    "ontology",
    "opposite",
    "project",
    "resolve",
    "words",
]

_DEPTH = (0, 2, 3, 4)  # path length from the root by tier: crossing primaries costs most
_TREE_WEIGHT = 0.5
_AFFECT_SPAN = 2 * math.sqrt(2)  # the diagonal of the valence-arousal square
_TIE = 1e-9

_NOISE = re.compile(r"(?<!\w)'|'(?!\w)|[^\w' ]|_")
_LEAD = re.compile(
    r"^(?:(?:i|i'm|im|i am|am|is|feel|feels|feeling|felt|been|so|very|really|just|quite|pretty|too"
    r"|totally|completely|utterly|deeply|extremely|rather|somewhat|a bit|a little|kind of|sort of"
    r"|like) )+"
)
_SUFFIXES = (
    ("iness", "y"),
    ("ily", "y"),
    ("ied", "y"),
    ("ies", "y"),
    ("iest", "y"),
    ("ier", "y"),
    ("ness", ""),
    ("ing", ""),
    ("ing", "e"),
    ("est", ""),
    ("ed", ""),
    ("ed", "e"),
    ("er", ""),
    ("er", "e"),
    ("ly", ""),
    ("es", ""),
    ("s", ""),
)
_GROWTHS = ("", "d", "ed", "ing", "ness")


class Band(StrEnum):
    """A SAGE band of the 0..100 emotion score, best first."""

    S = "S"
    A = "A"
    B = "B"
    C = "C"
    F = "F"


_FLOORS = ((100.0, Band.S), (70.0, Band.A), (40.0, Band.B), (10.0, Band.C))


@dataclass(frozen=True, slots=True)
class Emotion:
    """One node of the tree.

    Attributes:
        name: The node's name, lower case, unique in the tree.
        tier: 1 for a primary emotion (and ``neutral``), 2 for a secondary, 3 for a tertiary.
        parent: The node above, or None at tier 1.
        valence: From -1 (unpleasant) to 1 (pleasant).
        arousal: From -1 (drowsy) to 1 (stirred up).
        opposite: The contrasting node, or None where there is no plain contrast.
    """

    name: str
    tier: int
    parent: str | None
    valence: float
    arousal: float
    opposite: str | None


@dataclass(frozen=True, slots=True)
class Ontology:
    """The loaded tree, read only.

    Attributes:
        nodes: Every node by name.
        extensions: The names that this project added to Parrott's.
    """

    nodes: Mapping[str, Emotion]
    extensions: frozenset[str]

    def __getitem__(self, name: str) -> Emotion:
        """Return the node called `name`, or raise `UnknownEmotion`."""
        try:
            return self.nodes[name]
        except KeyError:
            raise _unknown("an emotion node's name", name, self.nodes) from None

    def __contains__(self, name: object) -> bool:
        """Tell whether `name` is a node."""
        return name in self.nodes

    def __iter__(self) -> Iterator[str]:
        """Iterate over the node names, primaries first."""
        return iter(self.nodes)

    def __len__(self) -> int:
        """Count the nodes."""
        return len(self.nodes)

    @property
    def primaries(self) -> tuple[str, ...]:
        """Parrott's six primary emotions, without ``neutral``."""
        return tuple(n.name for n in self.nodes.values() if n.tier == 1 and n.name != "neutral")

    def tier(self, name: str) -> int:
        """Return the tier of a node: 1, 2 or 3."""
        return self[name].tier

    def parent(self, name: str) -> str | None:
        """Return the node above `name`, or None at tier 1."""
        return self[name].parent

    def children(self, name: str) -> tuple[str, ...]:
        """Return the nodes right below `name`; empty for a leaf."""
        self[name]
        return tuple(n.name for n in self.nodes.values() if n.parent == name)

    def lineage(self, name: str) -> tuple[str, ...]:
        """Return the path from the primary emotion down to `name` itself."""
        parent = self[name].parent
        return (name,) if parent is None else (*self.lineage(parent), name)

    def primary(self, name: str) -> str:
        """Return the primary emotion (or ``neutral``) that `name` stands under."""
        return self.lineage(name)[0]


class _Views(Mapping[str, Mapping[str, str]]):
    """The label sets of the data file, read when first asked for."""

    def __getitem__(self, view: str) -> Mapping[str, str]:
        return _views()[view]

    def __iter__(self) -> Iterator[str]:
        return iter(_views())

    def __len__(self) -> int:
        return len(_views())


VIEWS: Mapping[str, Mapping[str, str]] = _Views()
"""Label to node, for ``ekman``, ``goemotions`` and ``empathetic_dialogues``.

Ekman's disgust is Parrott's secondary disgust, under anger; GoEmotions' neutral is the extra
``neutral`` node. Two labels may share a node (EmpatheticDialogues' confident and prepared).
"""


@functools.cache
def ontology() -> Ontology:
    """Return the emotion tree, loading it on the first call."""
    raw = _raw()
    opposites = raw["opposites"] | {b: a for a, b in raw["opposites"].items()}
    nodes = {
        name: Emotion(name, tier, parent, affect[0], affect[1], opposites.get(name))
        for name, tier, parent, affect in _rows(raw)
    }
    return Ontology(MappingProxyType(nodes), frozenset(raw["extensions"]))


def band(emotion: float) -> Band:
    """Return the SAGE band of an emotion score on the 0..100 scale.

    Args:
        emotion: The score; a value beyond an end of the scale falls in that end's band.

    Raises:
        ValueError: If the score is not a number (NaN).
    """
    if math.isnan(emotion):
        raise ValueError(f"expected an emotion score from 0 to 100, got {emotion!r}")
    return next((letter for floor, letter in _FLOORS if emotion >= floor), Band.F)


def normalise(text: str) -> str:
    """Bring text to the spelling of `words`: lower case, single spaces, no punctuation.

    Apostrophes inside a word stay (``can't cope``); hyphens and underscores become spaces.
    """
    plain = text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(_NOISE.sub(" ", plain).split())


def words(*, ambiguous: bool = True) -> Mapping[str, str]:
    """Return every known surface word and phrase with the node that it names.

    Args:
        ambiguous: Whether to keep everyday words ("down", "well", "like") that name a feeling
            only in answer to "how do you feel?". Leave them out to read running text.
    """
    return _lexicon() if ambiguous else _clear_lexicon()


@functools.lru_cache(maxsize=4096)
def resolve(word: str) -> str:
    """Return the node that a word or phrase for a feeling names.

    Any case and common inflections will do; a lead such as "I feel so" is passed over.

    Args:
        word: A node's name, a synonym, or an inflection of one.

    Raises:
        UnknownEmotion: If nothing known matches; the message names the nearest known words.
    """
    text = normalise(word)
    bare = _LEAD.sub("", text)
    for candidate in (text, bare, bare.replace(" ", ""), *_inflections(bare)):
        if candidate in _lexicon():
            return _lexicon()[candidate]
    raise _unknown("a word or phrase for a feeling", word, _lexicon())


def distance(a: str, b: str) -> float:
    """Return how far apart two nodes are, from 0 (the same) to 1.

    Half is the path length through the tree, half the straight line between the two points of
    the valence-arousal plane. Both obey the triangle inequality and the path is positive
    between distinct nodes, so their weighted sum is a metric.

    Raises:
        UnknownEmotion: If either name is not a node.
    """
    affect = _affect_distance(a, b) / _AFFECT_SPAN
    return _TREE_WEIGHT * _tree_distance(a, b) + (1 - _TREE_WEIGHT) * affect


def opposite(name: str) -> str | None:
    """Return the contrasting node, whose valence has the other sign, or None.

    The relation is symmetric. All six primaries and all secondaries have an opposite;
    ``neutral`` and some tertiary words have none.

    Raises:
        UnknownEmotion: If the name is not a node.
    """
    return ontology()[name].opposite


def cooccurrence(a: str, b: str) -> float:
    """Return how readily two emotions are felt together or lead to one another, 0 to 1.

    A table in the data holds pairs of secondary emotions (shame with rage, sorrow with longing);
    a tertiary word counts as its parent, a primary as its best child. A pair outside the table
    falls back on closeness, ``0.7 * (1 - distance) ** 2``. The numbers are estimates.

    Raises:
        UnknownEmotion: If either name is not a node.
    """
    if ontology()[a] == ontology()[b]:
        return 1.0
    pairs = (frozenset(pair) for pair in product(_secondaries(a), _secondaries(b)))
    listed = [_table()[pair] for pair in pairs if pair in _table()]
    fallback: float = _raw()["cooccurrence"]["fallback"]
    return max(listed) if listed else fallback * (1 - distance(a, b)) ** 2


def project(distribution: Mapping[str, float], view: str) -> dict[str, float]:
    """Carry a distribution over nodes to the labels of a view, keeping the total mass.

    Each node's mass goes to the label whose node is nearest, shared evenly between ties. A view
    without a neutral label gives neutral mass to whichever label is nearest to it.

    Args:
        distribution: Mass per node name; the total need not be 1.
        view: A name in `VIEWS`.

    Returns:
        The mass of every label of the view, zeros included.

    Raises:
        UnknownEmotion: If a key is not a node.
        UnknownName: If the view is not in `VIEWS`.
        ValueError: If a mass is negative or not finite.
    """
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)
    result = dict.fromkeys(VIEWS[view], 0.0)
    for node, mass in distribution.items():
        labels = _nearest_labels(node, view)
        for label in labels:
            result[label] += _checked_mass(node, mass) / len(labels)
    return result


def _checked_mass(node: str, mass: float) -> float:
    if not (math.isfinite(mass) and mass >= 0):
        raise ValueError(f"expected a finite mass of 0 or more for {node!r}, got {mass!r}")
    return mass


@functools.cache
def _nearest_labels(node: str, view: str) -> tuple[str, ...]:
    away = {label: distance(node, target) for label, target in VIEWS[view].items()}
    nearest = min(away.values())
    return tuple(label for label, gap in away.items() if gap <= nearest + _TIE)


def _tree_distance(a: str, b: str) -> float:
    up, down = ontology().lineage(a), ontology().lineage(b)
    shared = sum(x == y for x, y in zip(up, down, strict=False))
    return (_DEPTH[len(up)] + _DEPTH[len(down)] - 2 * _DEPTH[shared]) / (2 * _DEPTH[-1])


def _affect_distance(a: str, b: str) -> float:
    one, two = ontology()[a], ontology()[b]
    return math.hypot(one.valence - two.valence, one.arousal - two.arousal)


def _secondaries(name: str) -> tuple[str, ...]:
    if ontology().tier(name) == 1:
        return ontology().children(name)
    return (ontology().lineage(name)[1],)


def _inflections(word: str) -> Iterator[str]:
    """Yield the dictionary forms that an inflected word may come from, likeliest first."""
    stems = [
        word.removesuffix(suffix) + ending
        for suffix, ending in _SUFFIXES
        if word.endswith(suffix) and len(word) - len(suffix) >= 3
    ]
    undoubled = [stem[:-1] for stem in stems if len(stem) > 3 and stem[-1] == stem[-2]]
    yield from stems + undoubled
    # The table often holds only the participle ("frustrated"), so stems are also grown.
    yield from (stem + end for stem in (word, *stems) if len(stem) > 3 for end in _GROWTHS)


def _unknown(expected: str, got: str, known: Mapping[str, object]) -> UnknownEmotion:
    import difflib  # only a failing call needs it

    near = difflib.get_close_matches(normalise(got), known, n=5, cutoff=0.5)
    hint = f"nearest known: {', '.join(near)}" if near else "nothing known comes near"
    return UnknownEmotion(f"expected {expected}, got {got!r}; {hint}")


@functools.cache
def _raw() -> dict[str, Any]:
    from importlib.resources import files  # slow to import, and not needed before first use

    source = files("heartloop").joinpath("data", "emotion.toml")
    return tomllib.loads(source.read_text(encoding="utf-8"))


def _rows(raw: dict[str, Any]) -> Iterator[tuple[str, int, str | None, list[float]]]:
    yield from ((name, 1, None, affect) for name, affect in raw["primary"].items())
    for tier, key in ((2, "secondary"), (3, "tertiary")):
        for parent, group in raw[key].items():
            yield from ((name, tier, parent, affect) for name, affect in group.items())


@functools.cache
def _views() -> Mapping[str, Mapping[str, str]]:
    views = _raw()["views"].items()
    return MappingProxyType({name: MappingProxyType(labels) for name, labels in views})


@functools.cache
def _clear_lexicon() -> Mapping[str, str]:
    return MappingProxyType(_surface("synonyms") | {name: name for name in ontology()})


@functools.cache
def _lexicon() -> Mapping[str, str]:
    return MappingProxyType(_surface("ambiguous") | dict(_clear_lexicon()))


def _surface(table: str) -> dict[str, str]:
    return {phrase: node for node, phrases in _raw()[table].items() for phrase in phrases}


@functools.cache
def _table() -> Mapping[frozenset[str], float]:
    pairs = _raw()["cooccurrence"]["pairs"]
    return MappingProxyType({frozenset((a, b)): weight for a, b, weight, _why in pairs})
