"""An estimate of how a person feels from the feeling words that they use; no model.

It names what the words name and nothing more: a feeling that is not put into words is not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from heartloop import emotion
from heartloop.simusers.phrases import words
from heartloop.types import Value

READER = "feeling-words/1"
SILENT = 0.5
"""Weight of "neutral" against 1 for a feeling word."""
_LONGEST = 4
_REACH = 3
"""Words before a feeling word in which a negation or a measure counts."""
_NOT = frozenset("not never no without hardly stop stopped isn't".split())
_MEASURES = {
    **dict.fromkeys("very so really extremely deeply completely totally incredibly".split(), 1.5),
    **dict.fromkeys("bit little slightly somewhat".split(), 0.6),
}
_LEADS = frozenset("feel feeling feels felt".split())
"""After these an everyday word ("down", "low") names a feeling."""
_COMMON = frozenset("like care love kind good great want need fine well right better".split())
_CHINESE = {
    "sadness": ("难过", "伤心", "悲伤", "想哭", "心痛"),
    "fear": ("害怕", "恐惧", "恐慌"),
    "nervousness": ("焦虑", "紧张", "担心", "不安"),
    "anger": ("生气", "愤怒", "气死"),
    "irritation": ("烦躁", "烦死", "心烦"),
    "exhaustion": ("好累", "疲惫", "太累", "心累"),
    "loneliness": ("孤独", "寂寞", "孤单"),
    "shame": ("羞愧", "丢脸", "惭愧"),
    "disappointment": ("失望", "失落"),
    "hopelessness": ("绝望", "没有希望"),
    "joy": ("开心", "高兴", "快乐"),
    "relief": ("松了一口气", "放心了", "轻松多了"),
    "gratitude": ("感谢", "感激", "谢谢你"),
}
_CHINESE_NOT = ("不", "没", "别")


class Found(NamedTuple):
    """A feeling word in a text."""

    phrase: str
    node: str
    weight: float


class Estimate(Value):
    """What feeling words let guess about a message; an estimate, never a measurement."""

    nodes: dict[str, float]
    """A distribution over the emotion ontology."""
    words: tuple[str, ...] = ()
    """What it rests on."""
    level: float
    """Its mean valence, brought to 0..100; 50 is neither pleasant nor unpleasant."""
    reader: str = READER

    @property
    def primaries(self) -> dict[str, float]:
        """The distribution over primary emotions and neutral, likeliest first."""
        mass: dict[str, float] = {}
        for node, share in self.nodes.items():
            primary = emotion.ontology().primary(node)
            mass[primary] = mass.get(primary, 0.0) + share
        return dict(sorted(mass.items(), key=lambda item: -item[1]))

    def under(self, primary: str) -> dict[str, float]:
        """The shares of the feelings below a primary emotion, likeliest first."""
        tree = emotion.ontology()
        below = {n: share for n, share in self.nodes.items() if n != primary}
        found = {n: share for n, share in below.items() if tree.primary(n) == primary}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def estimate(text: str, before: Estimate | None = None) -> Estimate:
    """The estimate for a message; what was estimated before it fades by half.

    Args:
        text: What the person wrote, in English or Chinese.
        before: The estimate for their message before this one.
    """
    found = [*_english(words(text)), *_chinese(text)]
    mass = {"neutral": SILENT}
    for word in found:
        mass[word.node] = mass.get(word.node, 0.0) + word.weight
    for node, share in (before.nodes if before else {}).items():
        mass[node] = mass.get(node, 0.0) + share / 2
    total = sum(mass.values())
    nodes = {node: round(share / total, 4) for node, share in sorted(mass.items())}
    tree = emotion.ontology()
    valence = sum(share * tree[node].valence for node, share in nodes.items())
    heard = tuple(dict.fromkeys(word.phrase for word in found))
    return Estimate(nodes=nodes, words=heard, level=round(min(100, max(0, 50 + 50 * valence)), 1))


@cache
def _table(*, ambiguous: bool) -> Mapping[str, str]:
    known = emotion.words(ambiguous=ambiguous)
    return MappingProxyType({
        " ".join(words(phrase)): node for phrase, node in known.items()
        if phrase not in _COMMON and words(phrase)
    })  # fmt: skip


def _english(tokens: Sequence[str]) -> list[Found]:
    found, at = [], 0
    while at < len(tokens):
        word = _longest(tokens, at)
        if word is None:
            at += 1
            continue
        if not _NOT & set(_before(tokens, at)):
            found.append(word)
        at += len(word.phrase.split())
    return found


def _longest(tokens: Sequence[str], at: int) -> Found | None:
    """The longest feeling phrase that begins at `at`."""
    table = _table(ambiguous=bool(_LEADS & set(_before(tokens, at))))
    for size in range(min(_LONGEST, len(tokens) - at), 0, -1):
        phrase = " ".join(tokens[at : at + size])
        if phrase in table:
            weights = [_MEASURES[t] for t in _before(tokens, at) if t in _MEASURES]
            return Found(phrase, table[phrase], weights[-1] if weights else 1.0)
    return None


def _before(tokens: Sequence[str], at: int) -> Sequence[str]:
    """The words before a place, within its sentence."""
    near = tokens[max(0, at - _REACH) : at]
    ends = [i for i, token in enumerate(near) if token in ".!?"]
    return near[ends[-1] + 1 :] if ends else near


def _chinese(text: str) -> list[Found]:
    return [
        Found(phrase, node, 1.0)
        for node, phrases in _CHINESE.items()
        for phrase in phrases
        if phrase in text and not text[: text.index(phrase)].endswith(_CHINESE_NOT)
    ]
