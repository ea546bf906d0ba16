"""Taking up another person's words: pronoun flipping, clauses, things, people and feelings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from heartloop.simusers.phrases import STOPWORDS, content, words
from heartloop.types import Message

LONGEST, SHORTEST = 12, 4
"""Words of a clause that can be said back."""
_FLIPS = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself",
    "we": "you", "us": "you", "our": "your", "ours": "yours", "ourselves": "yourselves",
    "i'm": "you're", "i've": "you've", "i'd": "you'd", "i'll": "you'll", "am": "are",
    "we're": "you're", "we've": "you've", "we'd": "you'd", "we'll": "you'll",
    "you": "I", "your": "my", "yours": "mine", "yourself": "myself",
    "you're": "I'm", "you've": "I've", "you'd": "I'd", "you'll": "I'll",
}  # fmt: skip
_WERE = {"was": "were", "wasn't": "weren't"}
_ADVERBS = frozenset("never always also just still only really even almost suddenly simply".split())
_FUNCTION = frozenset(
    """a an the my our his her their its this that these those there then when while after before
    last now so but and or at on in for from by of with without under behind beside inside
    outside around during since until till every everyone everybody some somebody someone
    something two three four five six seven eight nine ten eleven twelve half nobody none no
    not nothing what who where why how today yesterday tonight tomorrow even apparently
    meanwhile all both because just only still once twice instead later afterwards next first
    each another any anyone people other others usually sometimes somehow mostly complimentary
    maybe perhaps if as though although it it's he she they we i'm i've i'd i'll we're we've
    we'd he's he'd she's she'd they're they've they'd there's that's mum mom dad lately
    recently suddenly normally whenever most more much many several almost""".split()
)
"""Words that lose their capital when a sentence is taken up in the middle of another."""
_DETERMINERS = frozenset("the my our his her their this".split())
_BREAKS = (
    STOPWORDS
    | _FUNCTION
    | frozenset(
        """was were is are had has have did does do could would should will shall can might said
        told
    asked went came took got gave made knew felt kept left found saw heard sent wrote put let
    sat stood fell bought brought paid ran read showed spoke told thought won wore cost hit
    hung held lost met sold slept spent stuck swore taught tore threw woke goes comes says
    gets makes takes keeps knows wants needs looks calls asks tells sends writes puts lets
    sits stands falls brings pays runs reads shows speaks thinks means hurts still always
    never again either anyway though too very really quite himself herself themselves itself
    downstairs upstairs works clicks bent broke broken rang drove closed stopped started two
    three four five six seven eight nine ten fourteen anyway which whose whom than like per
    ago already yet""".split()
    )
)
KEPT = STOPWORDS | _FUNCTION | _BREAKS
"""Words that hold sentences together."""
_ADJECTIVAL = frozenset(
    "whole own old new little big small last first next other same only good".split()
)
_PEOPLE = frozenset(
    """manager boss lead supervisor teacher professor tutor coach doctor dentist nurse landlord
    neighbor neighbour friend colleague coworker flatmate roommate sister brother mother
    father mum mom dad wife husband partner girlfriend boyfriend fiance fiancee son daughter
    aunt uncle cousin grandmother grandfather grandma grandpa niece nephew twin ex client
    customer team family parents sisters brothers friends colleagues neighbors neighbours kids
    children mentor trainer captain stepdad stepmother stepfather godmother goddaughter godson
    classmate""".split()
)
_LIGHT = frozenset(
    """wrong edge deal moment thing part way point rest end time case side sides worst version
    lot bit kind sort middle top bottom one first second third same others whole week day year
    planet corner matter past present other story truth""".split()
)
"""Nouns that name nothing to come back to."""
_NOT_NAMES = frozenset(
    """monday tuesday wednesday thursday friday saturday sunday january february march april may
    june july august september october november december christma easter english i mr mrs ms
    dr i'm i've i'd i'll okay ok god haha ha lol""".split()
)
_WORD = re.compile(r"[A-Za-z0-9][\w'-]*|[^\w\s]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_JOINT = re.compile(
    r"[,;:]\s+(?:(?:and|but|so|or|because|while|then|yet|though|although)\s+)?"
    r"|\s+(?:and|but|because|so|although|though)\s+(?=(?:I|he|she|they|we|nobody|my|it)\b)"
)
_BAD = re.compile(r"[\"'\u201c\u201d(]\w[^']*$|\?|\b(?:haha|lol|ha)\b", re.IGNORECASE)


def flip(text: str) -> str:
    """The text with first and second person exchanged: "I lost my key" -> "you lost your key"."""
    pieces = re.split(r"([A-Za-z']+)", text.replace("\u2019", "'"))
    for at in range(1, len(pieces), 2):
        word = pieces[at].lower()
        if word in _FLIPS:
            pieces[at] = _cased(_FLIPS[word], pieces[at])
        elif word in _WERE and _follows_first(pieces, at):
            pieces[at] = _cased(_WERE[word], pieces[at])
    return "".join(pieces)


def _cased(word: str, like: str) -> str:
    shouted = like[:1].isupper() and not like.startswith("I")
    return word[:1].upper() + word[1:] if shouted else word


def _follows_first(pieces: Sequence[str], at: int) -> bool:
    """Whether the verb at `at` has a flipped "I" or "we" as its subject."""
    before = [p.lower() for p in pieces[1:at:2]]
    while before and before[-1] in _ADVERBS:
        before.pop()
    after = pieces[at + 2].lower() if at + 2 < len(pieces) else ""
    return (bool(before) and before[-1] == "you") or after == "i"


def sentences(text: str) -> list[str]:
    """The sentences of a text, without surrounding space."""
    return [s.strip() for s in _SENTENCE.split(text.replace("\u2019", "'")) if s.strip()]


def clauses(text: str) -> list[str]:
    """Clauses that can be said back within a sentence, flipped, in order of appearance."""
    found = []
    for sentence in sentences(text):
        if sentence.endswith("?"):
            continue
        whole = sentence.rstrip(".!\u2026 ")
        for part in dict.fromkeys((whole, *_JOINT.split(whole))):
            if part and _is_sayable(part):
                found.append(flip(_lowered(part)))
    return found


def _is_sayable(part: str) -> bool:
    tokens = part.split()
    if not SHORTEST <= len(tokens) <= LONGEST or _BAD.search(part) or ":" in part:
        return False
    first = tokens[0].lower().strip(",")
    second = {"you", "your", "you're", "you've"} & {t.lower().strip(",") for t in tokens}
    if second or re.search(r"(?<!\w)'|'(?!\w)|[\"\u201c\u201d]", part):
        return False
    return _has_subject(first, tokens) and len(content(words(part))) >= 1


_SUBJECTS = frozenset(
    """i i'm i've i'd we we've we're we'd he he's he'd she she's she'd they they've they'd it
    it's nobody everybody everyone somebody my our his her their the there there's two three
    all""".split()
)


def _has_subject(first: str, tokens: Sequence[str]) -> bool:
    """Starts with a subject, or with a time or place and a subject soon after."""
    if first in _SUBJECTS:
        return True
    if tokens[0][0].isupper() and first not in _FUNCTION:
        verb = tokens[1].lower()
        return (verb in _BREAKS and verb not in _DETERMINERS) or _is_verblike(verb)
    later = {t.lower().strip(",") for t in tokens[1:5]}
    starts = first in _FUNCTION and first not in ("if", "what", "who", "how", "why", "and", "or")
    return starts and bool(later & {"i", "we", "he", "she", "they", "my", "i'd", "i've", "she'd"})


def _lowered(part: str) -> str:
    first, _, rest = part.partition(" ")
    return f"{first.lower()} {rest}" if first.lower().strip(",") in _FUNCTION else part


def things(text: str) -> list[str]:
    """Short noun phrases with a determiner, flipped: "my red coat" -> "your red coat"."""
    tokens = _WORD.findall(text.replace("\u2019", "'"))
    found = []
    for at, token in enumerate(tokens):
        if token.lower() in _DETERMINERS:
            tail = _nouns(tokens, at + 1)
            if tail:
                found.append(flip(" ".join([token.lower(), *tail])))
    return list(dict.fromkeys(found))


def _nouns(tokens: Sequence[str], at: int) -> list[str]:
    """The words after a determiner that belong to its noun phrase."""
    tail: list[str] = []
    for token in tokens[at : at + 3]:
        low = token.lower()
        if (low in _BREAKS - _ADJECTIVAL) or not token[0].isalpha() or "'" in token:
            break
        if tail and (_is_verblike(low) or low in _ADJECTIVAL):
            break
        tail.append(token)
    alone = len(tail) == 1 and (tail[0].lower() in _ADJECTIVAL or _is_verblike(tail[0].lower()))
    empty = bool(tail) and tail[-1].lower() in _ADJECTIVAL | _LIGHT
    return [] if alone or empty else tail


def _is_verblike(word: str) -> bool:
    return word.endswith(("ed", "ly")) and len(word) > 4


def people(text: str) -> list[str]:
    """Persons named in the text, flipped: "your sister", "Marisol"."""
    relations = [t for t in things(text) if t.split()[-1].lower() in _PEOPLE]
    return list(dict.fromkeys([r for r in relations if len(r.split()) <= 3] + names(text)))


def names(text: str) -> list[str]:
    """Capitalised words inside sentences."""
    found = []
    for sentence in sentences(text):
        for word in re.findall(r"(?<=[a-z,] )[A-Z][a-z]+\b(?!')", sentence):
            if word.lower().removesuffix("s") not in _NOT_NAMES and word.lower() not in _FUNCTION:
                found.append(word)
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Feeling:
    """A feeling with its adjective, its noun and what gives it away."""

    adjective: str
    noun: str
    cues: tuple[str, ...]


FEELINGS = tuple(
    Feeling(a, n, tuple(c.split()))
    for a, n, c in (
        ("hurt", "hurt", "hurt stings stung sting sore ache aches wound"),
        ("angry", "anger", "angry furious rage mad fuming shouting slammed swear"),
        ("sad", "sadness", "sad cry cried crying tears weep miss missed"),
        ("heartbroken", "grief", "died dead death funeral grave ashes buried grieving grief urn"),
        ("lonely", "loneliness", "lonely alone nobody empty silence"),
        ("guilty", "guilt", "guilty guilt fault sorry promised blame"),
        ("ashamed", "shame", "ashamed shame secret thief caught hide hid"),
        ("embarrassed", "embarrassment", "embarrassed embarrassing awkward laughed blushed joke"),
        ("humiliated", "humiliation", "humiliated humiliating mocked fool laughed stared"),
        ("worried", "worry", "worried money rent bill bills debt letter landlord"),
        ("anxious", "anxiety", "anxious nervous exam exams tests panic scan results interview"),
        ("scared", "fear", "scared afraid frightened fear terrified hospital surgery night"),
        ("disappointed", "disappointment", "disappointed promised forgot cancelled hoped birthday"),
        ("frustrated", "frustration", "frustrated again form stuck waiting"),
        ("resentful", "resentment", "bitter resent pay raise unfair instead cheaper credit"),
        ("jealous", "jealousy", "jealous envy envious rival flirting"),
        ("exhausted", "exhaustion", "tired exhausted sleep slept awake shift shifts"),
        ("rejected", "rejection", "rejected dropped dumped refused unwanted ignored"),
        ("betrayed", "betrayal", "betrayed lied lie secret trusted behind"),
        ("helpless", "helplessness", "helpless watching couldn powerless"),
        ("overwhelmed", "pressure", "overwhelmed deadline deadlines pile much stress stressed"),
    )
)
_BY_WORD = {w: f for f in FEELINGS for w in (f.adjective, f.noun)}
FELT = frozenset(_BY_WORD)
"""Words for feelings."""


def feeling(history: Sequence[Message], rng: Random) -> Feeling:
    """The feeling the person said, else the one their words hint at, else a likely one."""
    said = [t for m in history if m.role == "user" for t in words(m.content)]
    for token in reversed(said):
        if token in _BY_WORD and token not in ("pressure", "anxiety"):
            return _BY_WORD[token]
    hinted = [f for f in FEELINGS for cue in f.cues if cue in said]
    return rng.choice(hinted or [_BY_WORD[w] for w in ("hurt", "sad", "frustrated", "angry")])


@dataclass(frozen=True, slots=True)
class Material:
    """What the visible history offers to take up; clauses and things of the last message first."""

    clauses: tuple[str, ...]
    deeds: tuple[str, ...]
    """Clauses that begin with "you" and tell what the person did."""
    things: tuple[str, ...]
    people: tuple[str, ...]
    feeling: Feeling


def material(history: Sequence[Message], rng: Random) -> Material:
    """Read the visible history; whatever is richer in content comes first."""
    said = [m.content for m in history if m.role == "user"]
    told = [said[0], *map(_beyond_greeting, said[1:])] if said else []
    found = tuple(dict.fromkeys(c for text in reversed(told) for c in _ranked(clauses(text))))
    return Material(
        clauses=found,
        deeds=tuple(c for c in found if _is_deed(c)),
        things=tuple(dict.fromkeys(t for text in reversed(said) for t in things(text))),
        people=tuple(dict.fromkeys(p for text in reversed(said) for p in people(text))),
        feeling=feeling(history, rng),
    )


def _beyond_greeting(text: str) -> str:
    """A later message without its first sentence, which answers the helper, if there is more."""
    return " ".join(sentences(text)[1:]) or text


def _ranked(found: Sequence[str]) -> list[str]:
    return sorted(found, key=lambda c: -_weight(c))


def _weight(clause: str) -> float:
    """Content, less what is said about the helper or about nothing."""
    return len(content(words(clause))) - 0.1 * abs(len(clause.split()) - 8)


_DEED = re.compile(r"you(?:'ve)? (?:(?:\w+ly|never|still|always|also|then) )?([a-z]+)")
_STATIVE = frozenset(
    """were weren't was are felt feel know knew had have got get hate want wanted miss can can't
    could couldn't don't didn't should would will wish think thought guess suppose forgot lost
    failed missed cried hoped fell need seem look may might haven't been be just am heard saw
    stood lie sit live love""".split()
)


def _is_deed(clause: str) -> bool:
    found = _DEED.match(clause)
    return bool(found) and found[1] not in _STATIVE  # type: ignore[index]


def tidy(text: str) -> str:
    """Sentences with capitals, single spaces, no doubled marks."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([.,!?])", r"\1", text)
    text = re.sub(r",\s*([.?!])", r"\1", text)
    text = re.sub(r"([.?!])(?:\s*\.)+", r"\1", text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def last_words(history: Sequence[Message]) -> str:
    """The person's last message."""
    return next((m.content for m in reversed(history) if m.role == "user"), "")


def replies(history: Sequence[Message]) -> Iterator[str]:
    """What was answered so far, oldest first."""
    return (m.content for m in history if m.role == "assistant")
