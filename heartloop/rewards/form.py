"""Rewards from the form of the policy's replies: think block, length, repetition, language."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from heartloop.rewards.base import measure
from heartloop.types import Episode, Reply, Score

SHORT, LONG, ENDLESS = 10, 80, 160
"""Words: from SHORT to LONG counts full; nothing at 0 words, nor from ENDLESS on."""
GRAM = 3
"""Words in a row that make a repetition."""
LANGUAGE_SHARE, FUNCTION_SHARE, ENOUGH_WORDS = 0.6, 0.15, 6
"""Least share of letters in the script; of English function words; from so many words on."""

_TAG = re.compile(r"</?think", re.IGNORECASE)
_WIDE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(
    rf"[{_WIDE}]{{1,2}}|(?:(?![{_WIDE}])[^\W_])+(?:['\u2019](?:(?![{_WIDE}])[^\W_])+)*"
)
"""A word; in scripts that write none apart, every two characters."""

_SCRIPTS = {
    "LATIN": "en de fr es it pt nl sv da no fi pl cs tr id vi",
    "CJK": "zh",
    "HIRAGANA KATAKANA CJK": "ja",
    "HANGUL": "ko",
    "CYRILLIC": "ru uk bg",
    "ARABIC": "ar fa ur",
    "HEBREW": "he",
    "GREEK": "el",
    "DEVANAGARI": "hi",
    "THAI": "th",
}
_ENGLISH = """
    a about and are as at be been but can did do does for from had has have he her how i if in is
    it it's i'm just like me my no not of on or she so that that's the their them there they this to
    was we were what when who will with would you you're your
"""
_FUNCTION_WORDS = frozenset(_ENGLISH.split())


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.replace("\u2019", "'") for word in _WORD.findall(text.lower())]


def _replies(episode: Episode) -> list[Reply]:
    return [turn.reply for turn in episode.turns]


def _mean(values: Sequence[float]) -> Score:
    """The mean over the replies of an episode; no score where there is none."""
    if not values:
        return Score(value=None, why="the policy said nothing yet")
    return Score(value=sum(values) / len(values))


@measure("format", gate=True)
def format_gate(episode: Episode) -> Score:
    """1 when every reply is well formed, else 0.

    A reply has visible text without think tags in it. Once any reply of the episode thinks, or
    tries to, every reply must be one complete think block followed by its text.
    """
    replies = _replies(episode)
    if not replies:
        return _mean([])
    thinks = any(_thinks(reply) for reply in replies)
    return Score(value=float(all(_is_well_formed(reply, thinks) for reply in replies)))


@measure("thinking", gate=True)
def thinking_gate(episode: Episode) -> Score:
    """1 when every reply is one complete think block followed by its text, else 0.

    For a policy that was told to think: `format` also opens for one that never does.
    """
    replies = _replies(episode)
    if not replies:
        return _mean([])
    return Score(value=float(all(_is_well_formed(reply, thinks=True) for reply in replies)))


def _thinks(reply: Reply) -> bool:
    return reply.think is not None or bool(_TAG.search(reply.raw or reply.text))


def _is_well_formed(reply: Reply, thinks: bool) -> bool:
    if _TAG.search(reply.text) or not reply.text.strip():
        return False
    if not thinks:
        return True
    parsed = Reply.parse(reply.raw or reply.text)
    return bool(parsed.think) and (parsed.think, parsed.text) == (reply.think, reply.text)


@measure("length")
def length(episode: Episode) -> Score:
    """Mean over replies of a soft band on their words.

    1 from SHORT to LONG words, straight down to 0 at no word and at ENDLESS words.
    """
    return _mean([_in_band(len(words(reply.text))) for reply in _replies(episode)])


def _in_band(count: int) -> float:
    return max(0.0, min(1.0, count / SHORT, (ENDLESS - count) / (ENDLESS - LONG)))


@measure("repetition")
def repetition(episode: Episode) -> Score:
    """Share of distinct word 3-grams among all of the policy's replies; 1 when none returns."""
    grams = [gram for reply in _replies(episode) for gram in _grams(words(reply.text))]
    if not grams:
        return _mean([])
    return Score(value=len(set(grams)) / len(grams))


def _grams(row: list[str]) -> list[tuple[str, ...]]:
    """All 3-grams; a shorter reply is one gram by itself."""
    return [tuple(row[i : i + GRAM]) for i in range(max(1, len(row) - GRAM + 1))]


@measure("language")
def language(episode: Episode) -> Score:
    """Share of replies written in the scenario's language.

    Judged by script; English also by its function words, once a reply is long enough.
    """
    code = episode.scenario.language.lower().split("-")[0]
    if code not in _scripts():
        return Score(value=None, why=f"no script is known for language {code!r}")
    return _mean([float(_is_in(reply.text, code)) for reply in _replies(episode)])


@cache
def _scripts() -> dict[str, tuple[str, ...]]:
    rows = _SCRIPTS.items()
    return {code: tuple(names.split()) for names, codes in rows for code in codes.split()}


def _is_in(text: str, code: str) -> bool:
    letters = [char for char in text if char.isalpha()]
    inside = sum(unicodedata.name(char, "").startswith(_scripts()[code]) for char in letters)
    if not letters or inside < LANGUAGE_SHARE * len(letters):
        return False
    row = words(text)
    if code != "en" or len(row) < ENOUGH_WORDS:
        return True
    return sum(word in _FUNCTION_WORDS for word in row) >= FUNCTION_SHARE * len(row)
