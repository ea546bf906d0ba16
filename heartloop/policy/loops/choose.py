"""Selectors: which attempt becomes the reply."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from heartloop.policy.loops.base import Asking, Attempt, derived
from heartloop.policy.loops.cues import leaked
from heartloop.policy.loops.desk import Desk
from heartloop.types import Reply

_COMPARE = (
    "Two possible answers follow.\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}\n\n"
    "Which is the better answer to the above? Reply with the letter A or B and nothing else."
)
_PICK = (
    "Possible answers follow, by number.\n\n{listed}\n\n"
    "Which is the best answer to the above? Reply with its number and nothing else."
)
_WRITE = (
    "Possible answers follow, by number; any of them may be wrong.\n\n{listed}\n\n"
    "Write the one final answer to the above, in full, without a word about these."
)


@dataclass(frozen=True)
class Choice:
    """What a selector decided."""

    index: int | None
    """Of the attempt; None for a new text."""
    reply: Reply
    how: str


Select = Callable[[Desk], Asking[Choice]]


def _at(attempt: Attempt, how: str) -> Choice:
    assert attempt.reply is not None  # only usable attempts are chosen from
    return Choice(attempt.index, attempt.reply, how)


def _plainly(name: str, pick: Callable[[list[Attempt]], tuple[Attempt, str]]) -> Select:
    """A selector that asks nobody."""

    def choose(desk: Desk) -> Asking[Choice]:
        yield from ()
        attempt, remark = pick(desk.usable)
        return _at(attempt, f"{name}: {remark}" if remark else name)

    return choose


def _first(usable: list[Attempt]) -> tuple[Attempt, str]:
    return usable[0], ""


def _last(usable: list[Attempt]) -> tuple[Attempt, str]:
    return usable[-1], ""


def _majority(usable: list[Attempt]) -> tuple[Attempt, str]:
    """The commonest answer; among equals the one given last (arXiv 2203.11171)."""
    counts = Counter(attempt.answer for attempt in usable)
    most = max(counts.values())
    return next(a for a in reversed(usable) if counts[a.answer] == most), ""


def _keep_first(usable: list[Attempt]) -> tuple[Attempt, str]:
    """The first, unless two later ones agree on something else: keeps right answers right."""
    others = Counter(a.answer for a in usable[1:] if a.answer != usable[0].answer)
    answer, votes = others.most_common(1)[0] if others else ("", 0)
    if votes < 2:
        return usable[0], ""
    return next(a for a in reversed(usable) if a.answer == answer), "outvoted"


def _best_reward(usable: list[Attempt]) -> tuple[Attempt, str]:
    """The best score, the earliest among equals; what has no score is passed over."""
    best, top = None, 0.0
    for attempt in usable:
        value = attempt.score.value if attempt.score else None
        if value is not None and (best is None or value > top):
            best, top = attempt, value
    return (best, "") if best else (usable[0], "none could be scored, first")


def _pairwise(desk: Desk) -> Asking[Choice]:
    """The policy compares two at a time; the winner stays (order drawn by seed)."""
    winner, unread = desk.usable[0], 0
    for rival in desk.usable[1:]:
        pair = [winner, rival]
        Random(derived(desk.prompt.seed, "pair", rival.index)).shuffle(pair)
        question = _COMPARE.format(a=_text(pair[0]), b=_text(pair[1]))
        said = yield from desk.aside("compare", desk.note(question))
        letter = re.fullmatch(r"\W*([AB])\W*", said.strip().upper())
        if letter is None:
            unread += 1
        else:
            winner = pair["AB".index(letter[1])]
    return _at(winner, f"pairwise: {unread} verdicts unreadable" if unread else "pairwise")


def _select(desk: Desk) -> Asking[Choice]:
    """The policy sees all of them and names a number."""
    shown = _shuffled(desk)
    if len(shown) == 1:
        return _at(shown[0], "select")
    said = yield from desk.aside("select", desk.note(_PICK.format(listed=_listed(shown))))
    number = re.fullmatch(r"\D{0,20}(\d+)\D{0,20}", said.strip())
    if number and 1 <= int(number[1]) <= len(shown):
        return _at(shown[int(number[1]) - 1], "select")
    return _at(desk.usable[0], "select: unreadable, first")


def _synthesise(desk: Desk) -> Asking[Choice]:
    """The policy sees all of them and writes a new answer, which may be none of them."""
    shown = _shuffled(desk)
    if len(shown) == 1:
        return _at(shown[0], "synthesise: only one")
    said = yield from desk.aside("synthesise", desk.note(_WRITE.format(listed=_listed(shown))))
    if not said or _betrays(desk, said):
        return _at(desk.usable[-1], "synthesise: failed, last")
    return Choice(None, Reply(text=said), "synthesise")


def _betrays(desk: Desk, said: str) -> bool:
    """Whether the new text takes over what a note said."""
    visible = [m.content for m in desk.prompt.history]
    return any(leaked(secret, said, visible) for secret in desk.secrets)


def _shuffled(desk: Desk) -> list[Attempt]:
    shown = desk.usable
    Random(derived(desk.prompt.seed, "order")).shuffle(shown)
    return shown


def _listed(attempts: list[Attempt]) -> str:
    return "\n\n".join(f"{n}.\n{_text(a)}" for n, a in enumerate(attempts, 1))


def _text(attempt: Attempt) -> str:
    return attempt.reply.text if attempt.reply else ""


SELECTORS: dict[str, Select] = {
    "first": _plainly("first", _first),
    "last": _plainly("last", _last),
    "majority": _plainly("majority", _majority),
    "keep_first": _plainly("keep_first", _keep_first),
    "best_reward": _plainly("best_reward", _best_reward),
    "pairwise": _pairwise,
    "select": _select,
    "synthesise": _synthesise,
}
"""Selectors by name."""


def reserve(selector: str, attempts: int) -> int:
    """Samples a selector draws itself to choose from so many attempts."""
    if attempts < 2:
        return 0
    return {"pairwise": attempts - 1, "select": 1, "synthesise": 1}.get(selector, 0)
