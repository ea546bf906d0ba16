"""How steady a simulated user's scores are: the same contexts scored several times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from statistics import mean, pstdev
from typing import NamedTuple, Protocol

from heartloop.env.threads import side_by_side
from heartloop.errors import EpisodeFailure, InvalidInput, OutputRefused
from heartloop.types import Episode, Message, Scenario, Value


class Judge(Protocol):
    """A simulated user that can score one reply by itself."""

    id: str

    def judge(
        self, scenario: Scenario, history: Sequence[Message], emotion: float, seed: int
    ) -> float:
        """The change of emotion that the last message of `history` makes."""
        ...


class Context(NamedTuple):
    """A reply to be scored, and what went before it."""

    scenario: Scenario
    history: tuple[Message, ...]
    emotion: float


class Repeatability(Value):
    """How far scores of one and the same reply differ."""

    user: str
    contexts: int
    times: int
    errored: int
    """Contexts with a scoring that failed; they enter no other figure."""
    flip_rate: float | None = None
    """Chance that two scorings of a reply differ in sign."""
    spread: float | None = None
    """Standard deviation of the scorings of a reply in points of emotion, mean over replies."""
    changes: tuple[tuple[float, ...], ...] = ()
    """Every scoring of every context that did not fail."""


def contexts(episodes: Iterable[Episode]) -> Iterator[Context]:
    """Every scored reply of stored dialogues."""
    for episode in episodes:
        history = [Message(role="user", content=episode.opening.text)]
        emotion = episode.opening.emotion
        for turn in episode.turns:
            history.append(Message(role="assistant", content=turn.reply.text))
            if turn.reaction is None:
                break
            yield Context(episode.scenario, tuple(history), emotion)
            history.append(Message(role="user", content=turn.reaction.text))
            emotion = turn.reaction.emotion


def repeatability(
    user: Judge, episodes: Iterable[Episode], number: int = 100, times: int = 5, seed: int = 0,
    at_once: int = 16,
) -> Repeatability:  # fmt: skip
    """Score the first `number` contexts of stored dialogues `times` times each.

    Raises:
        InvalidInput: there is no context, or `times` is below 2.
    """
    if times < 2:
        raise InvalidInput(f"times must be at least 2 to compare scorings, got {times!r}")
    chosen = list(islice(contexts(episodes), number))
    if not chosen:
        raise InvalidInput("the episodes hold no scored reply: expected at least one")

    def scored(context: Context) -> tuple[float, ...] | None:
        try:
            return tuple(user.judge(*context, seed + n) for n in range(times))
        except EpisodeFailure:
            return None

    found = list(side_by_side(scored, chosen, at_once))
    whole = [changes for changes in found if changes is not None]
    return Repeatability(
        user=user.id,
        contexts=len(chosen),
        times=times,
        errored=len(chosen) - len(whole),
        flip_rate=round(mean(map(_flips, whole)), 4) if whole else None,
        spread=round(mean(map(pstdev, whole)), 4) if whole else None,
        changes=tuple(whole),
    )


def save(found: Repeatability, out: Path) -> None:
    """Write the figures with every scoring, the user's id beside them, to a new file.

    Raises:
        OutputRefused: `out` exists or cannot be written.
    """
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(found.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise OutputRefused(f"cannot write {out}: {error.strerror}: choose a new file") from error


def _flips(changes: Sequence[float]) -> float:
    return mean(_sign(a) != _sign(b) for a, b in combinations(changes, 2))


def _sign(change: float) -> int:
    return (change > 0) - (change < 0)
