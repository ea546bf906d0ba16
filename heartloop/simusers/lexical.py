"""The lexical reader: phrases, word overlap and surface form; core install only."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from importlib.resources import files

from heartloop import emotion
from heartloop.simusers.phrases import STOPWORDS, Phrases, content, function_pairs, words
from heartloop.simusers.reading import Context, Reading, Topic
from heartloop.simusers.takeup import frame, is_plugged
from heartloop.types import Scenario

LONG, ENDLESS = 60, 160
"""Words from which a chat reply is long, and from which nobody reads on."""
_FIRST = frozenset({"i", "me", "my", "mine", "we", "us", "our"})
_UNENDING = frozenset("the a an my your our their and or because than".split())
"""Words no sentence ends on."""
_FELT_SELF = frozenset({"i", "am", "me", "my"})
_UNNAMED = frozenset("like care love low down kind good great want need fine".split())
"""Words of the ontology too common in chat to count as naming an emotion."""
_VOWELS = frozenset("aeiouy0123456789")
_HUMS = frozenset("hmm hmmm mmm mhm shh pff pfft brr psst tsk grr".split())
_PERSONS = dict.fromkeys(("i", "you", "me", "we", "us"), "i") | {
    **dict.fromkeys(("my", "your", "our", "mine", "yours", "ours"), "my"),
    **dict.fromkeys(("am", "are", "is"), "is"),
    **dict.fromkeys(("was", "were"), "was"),
    **dict.fromkeys(("myself", "yourself"), "myself"),
}
_GRAVITY = (
    "order", "forged", "leak", "empty", "garbled", "language", "repeat", "echo", "endless",
    "stuffed", "cruelty", "blame", "minimise", "farewell", "flattery", "interrogate", "sides",
    "hijack", "generic",
)  # fmt: skip
_SEVERE = frozenset(
    """order forged leak empty garbled language repeat echo endless stuffed flattery
    cruelty""".split()
)


@cache
def _tables() -> tuple[Phrases, Phrases]:
    """The phrase tables of acts with offences, and of emotion words."""
    text = files("heartloop.simusers").joinpath("lexicon/en.toml").read_text(encoding="utf-8")
    lexicon = tomllib.loads(text)
    table = dict(lexicon["acts"]) | {f"off_{k}": v for k, v in lexicon["offences"].items()}
    nodes: dict[str, list[str]] = {}
    for phrase, node in emotion.words(ambiguous=False).items():
        if phrase not in _UNNAMED and words(phrase):
            nodes.setdefault(node, []).append(" ".join(words(phrase)))
    return Phrases(table), Phrases(nodes)


@lru_cache(maxsize=4096)
def _topic(scenario: Scenario) -> Topic:
    return Topic.of(scenario)


@lru_cache(maxsize=65536)
def _closeness(node: str, felt: str) -> float:
    return 1.0 - emotion.distance(node, felt)


class LexicalReader:
    """Reads a reply by its words. Features are named after the acts and offences of the lexicon."""

    id = "lexical/1"

    def read(self, reply: str, context: Context) -> Reading:
        """What `reply` does for the person of `context`."""
        tokens = words(reply)
        spoken = [t for t in tokens if t not in ".!?"]
        features = _acts(tokens)
        features |= _overlap(tokens, context)
        features |= _naming(spoken, context.scenario)
        features |= _form(reply, tokens, spoken) | _repetition(reply, spoken, context)
        features |= _forgery(reply)
        if _breaks_off(spoken) or is_plugged(reply, context.said, context.heard):
            features["garbled"] = 1.0
        features = {k: round(min(1.0, v), 3) for k, v in features.items() if v > 0.0005}
        return Reading(features, _offences(features))


def _breaks_off(spoken: Sequence[str]) -> bool:
    return bool(spoken) and spoken[-1] in _UNENDING


def _acts(tokens: Sequence[str]) -> dict[str, float]:
    """Acts and offences by phrases; each further phrase halves what is left to 1."""
    acts, _ = _tables()
    return {k: 1 - 0.5**n for k, n in zip(acts.labels, acts.count(tokens), strict=True) if n}


def _overlap(tokens: Sequence[str], context: Context) -> dict[str, float]:
    """How much the reply takes up what the person said, what happened, and what would serve."""
    stems = content(tokens)
    topic = _topic(context.scenario)
    last = content(_words(context.said[-1]))
    said = frozenset[str]().union(*(content(_words(m)) for m in context.said))
    known = stems & (said | topic.facts)
    need = max((_share(stems, need) for need in topic.needs), default=0.0)
    fresh = stems - said
    return {
        "uptake_last": 1 - 0.6 ** len(stems & last),
        "uptake": 1 - 0.7 ** len(stems & said),
        "on_topic": 1 - 0.7 ** len(known),
        "need": need,
        "needs_any": 1 - 0.75 ** len(stems & frozenset[str]().union(*topic.needs)),
        "fresh": 1 - 0.8 ** len(fresh),
        "off_topic": float(len(stems) >= 4 and not known),
    }


@lru_cache(maxsize=2048)
def _words(text: str) -> tuple[str, ...]:
    return tuple(words(text))


def _share(stems: frozenset[str], need: frozenset[str]) -> float:
    """How far a need clause is met: half its content words count as meeting it."""
    if not need:
        return 0.0
    return min(1.0, 2 * len(stems & need) / len(need)) if len(stems & need) > 1 else 0.0


def _naming(spoken: Sequence[str], scenario: Scenario) -> dict[str, float]:
    """How near the emotions that the reply names for the person are to the felt one."""
    _, emotions = _tables()
    found = [n for n, c in zip(emotions.labels, emotions.count(spoken), strict=True) if c]
    if not found:
        return {}
    nodes = emotion.ontology().nodes
    near = max(_closeness(n, scenario.felt) for n in found)
    cheer = all(nodes[n].valence > 0 for n in found) and nodes[scenario.felt].valence < 0
    return {
        "felt_close": max(0.0, (near - 0.5) * 2),
        "felt_exact": float(near > 0.999),
        "felt_wrong": float(near < 0.45 and not cheer),
        "cheer": float(cheer),
    }


def _form(reply: str, tokens: Sequence[str], spoken: Sequence[str]) -> dict[str, float]:
    """Length, questions, address, script and readability of the reply."""
    n = len(spoken)
    letters = [c for c in reply if c.isalpha()]
    foreign = sum(not _is_latin(c) for c in letters) / len(letters) if letters else 0.0
    functional = sum(t in STOPWORDS for t in spoken) / n if n else 0.0
    questions = tokens.count("?")
    symbols = sum(map(_is_symbol, reply))
    return {
        "empty": float(n == 0),
        "short": max(0.0, 1 - n / 6) if n else 0.0,
        "medium": float(12 <= n <= 45),
        "long": min(1.0, max(0.0, (n - LONG) / 60)),
        "endless": float(n > ENDLESS),
        "question": float(questions == 1),
        "interrogate": min(1.0, max(0, questions - 1) / 2),
        "exclaim": min(1.0, tokens.count("!") / 3),
        "you": min(1.0, 5 * sum(t in ("you", "your") for t in spoken) / max(n, 8)),
        "self": min(1.0, 8 * sum(t in _FELT_SELF for t in spoken) / max(n, 8)),
        "language": float(foreign > 0.2 or _is_foreign(spoken)),
        "garbled": float(_is_garbled(spoken, symbols, len(reply)) or _is_salad(reply)),
        "stuffed": float((n >= 12 and functional < 0.25) or (n >= 4 and functional < 0.12))
        or float(_is_list(tokens, n)),
    }


def _is_latin(char: str) -> bool:
    return char.isascii() or unicodedata.name(char, "").startswith("LATIN")


def _is_symbol(char: str) -> bool:
    """Neither letter, digit, space, everyday mark nor emoji."""
    if char.isalnum() or char.isspace() or char in ".,!?'\"-;:()*_~\u2019\u2018\u201c\u201d\u2026":
        return False
    return unicodedata.category(char) not in ("So", "Sk", "Mn", "Cf")


def _is_foreign(spoken: Sequence[str]) -> bool:
    """Latin letters, yet hardly an English function word in a text of some length."""
    known = sum(t in STOPWORDS for t in spoken)
    return len(spoken) >= 6 and known / len(spoken) < 0.12


def _is_garbled(spoken: Sequence[str], symbols: int, length: int) -> bool:
    """Mostly symbols, letter salad, or one word over and over."""
    if not spoken:
        return False
    noise = [t for t in spoken if len(t) > 2 and not _VOWELS.intersection(t) and t not in _HUMS]
    salad = len(noise) / len(spoken) if len(noise) > 1 else 0.0
    stutter = len(spoken) >= 8 and len(set(spoken)) / len(spoken) < 0.4
    lengthy = max(map(len, spoken)) > 28
    return symbols > 0.15 * length or salad > 0.3 or stutter or lengthy


@cache
def _known_pairs() -> frozenset[tuple[str, ...]]:
    text = files("heartloop.simusers").joinpath("lexicon/en.pairs.txt").read_text(encoding="utf-8")
    return frozenset(tuple(line.split()) for line in text.splitlines())


def _is_salad(reply: str) -> bool:
    """Function words in orders nobody uses: words shuffled, sorted or strung together."""
    found = function_pairs(reply)
    strange = sum(pair not in _known_pairs() for pair in found)
    return len(found) >= 3 and strange > 0.3 * len(found)


def _is_list(tokens: Sequence[str], n: int) -> bool:
    """Very short "sentences" in a row are key words, not speech."""
    ends = sum(t in ".!?" for t in tokens)
    return ends >= 8 and n / ends < 2.5


def _grams(tokens: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}


def _repetition(reply: str, spoken: Sequence[str], context: Context) -> dict[str, float]:
    """Parroting the person, and saying again what the policy said before."""
    own = _grams(spoken, 3)
    if not own:
        return {"repeat": float(any(_same(reply, h) for h in context.heard))}
    copied = _copied(own, (_grams(_spoken(m), 3) for m in context.said))
    turned = _copied(
        _grams(_unperson(spoken), 3), (_grams(_unperson(_spoken(m)), 3) for m in context.said)
    )
    before = [len(own & _grams(_spoken(h), 3)) / len(own) for h in context.heard]
    stale = max(before, default=0.0)
    opening = tuple(spoken[:3])
    same_start = sum(_spoken(h)[:3] == opening for h in context.heard)
    return {
        "echo": max(0.0, (copied - 0.5) * 2.5, (turned - 0.6) * 5, float(_is_pasted(own, context))),
        "repeat": float(stale > 0.7 or _is_refilled(reply, context)),
        "stale": min(1.0, stale * 1.4) if stale > 0.15 else 0.0,
        "same_start": min(1.0, same_start / 3),
    }


def _is_refilled(reply: str, context: Context) -> bool:
    """Whether it is an earlier reply with other words of the person put in."""
    own = _grams(frame(reply, context.said), 3)
    before = (_grams(frame(h, context.said), 3) for h in context.heard)
    return len(own) >= 3 and any(len(own & b) > 0.7 * len(own) for b in before)


def _is_pasted(own: set[tuple[str, ...]], context: Context) -> bool:
    """Whether the person's "I" and "my" stand in the reply as they were said."""
    theirs = set[tuple[str, ...]]().union(*(_grams(_spoken(m), 3) for m in context.said))
    return sum(not _FIRST.isdisjoint(run) for run in own & theirs) >= 3


def _copied(own: set[tuple[str, ...]], theirs: Iterable[set[tuple[str, ...]]]) -> float:
    """Share of the reply's three-word runs that the person used."""
    return len(own & set[tuple[str, ...]]().union(*theirs)) / len(own)


def _unperson(spoken: Sequence[str]) -> tuple[str, ...]:
    """The words with "I" and "you" made alike, so that turning them round still is parroting."""
    return tuple(_PERSONS.get(t, t) for t in spoken)


def _same(one: str, other: str) -> bool:
    return _spoken(one) == _spoken(other)


@lru_cache(maxsize=2048)
def _spoken(text: str) -> tuple[str, ...]:
    return tuple(t for t in words(text) if t not in ".!?")


_MARKS = re.compile(
    r"""<\||\|>|\[/?inst\]|<<sys|```|^\s*\#{2,}\s|\{\s*"|\\x1b|\x1b|</?[a-z_]+>
    |^\s*(?:system|assistant|user|response|targetcompletion|analyse|activity|thinking)\s*:
    |\b(?:emotion|mood|score|change|reward|rating|understood|validated|served|burden)\b
        \s*[:=]\s*[-+"'{\[]?\s*(?:\d|yes\b|true\b|max)""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_INVISIBLE = re.compile(
    "[\u200b\u200c\u2060\ufeff\u202a\u202b\u202d\u202e\u2066-\u2068]|\\w\u200d|\u200d\\w"
)


def _forgery(reply: str) -> dict[str, float]:
    """Labels, role tags and hidden characters that a chat reply has no use for."""
    lower = reply.lower()
    return {
        "forged": float(bool(_MARKS.search(reply) or _INVISIBLE.search(reply))),
        "leak": float("<think" in lower or "</think" in lower),
    }


def _offences(features: dict[str, float]) -> tuple[str, ...]:
    """What stands out as wrong, gravest first."""
    graded = {
        **{k: features.get(k, 0.0) for k in _GRAVITY},
        **{
            k: features.get(f"off_{k}", 0.0)
            for k in ("cruelty", "blame", "minimise", "flattery", "sides", "hijack", "farewell")
        },
        "order": features.get("off_order", 0.0),
        "generic": features.get("off_stock", 0.0),
    }
    bar = {
        "order": 0.74,
        "generic": 0.7,
        "sides": 0.7,
        "flattery": 0.74,
        "blame": 0.7,
        "cruelty": 0.4,
    }
    return tuple(k for k in _GRAVITY if graded[k] >= bar.get(k, 0.49))


def is_severe(offences: Iterable[str]) -> bool:
    """Whether an offence undoes whatever good the reply may hold."""
    return not _SEVERE.isdisjoint(offences)
