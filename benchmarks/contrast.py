"""Contrast pairs: does the embedded user like the better of two replies to the same moment more?

    python benchmarks/contrast.py            the share ordered rightly, tuning and set-aside pairs

A quarter of the pairs, chosen by a hash of their id, was set aside before any tuning.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from heartloop.simusers import appraisal
from heartloop.simusers.lexical import LexicalReader
from heartloop.simusers.reading import Context, Reading
from heartloop.types import Message, Persona, Scenario, Situation

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Pair:
    """One moment with two replies."""

    id: str
    scenario: Scenario
    history: tuple[Message, ...]
    better: str
    worse: str

    @property
    def set_aside(self) -> bool:
        """Whether the pair was kept from tuning."""
        return hashlib.sha256(self.id.encode()).digest()[0] % 4 == 0

    def read(self, reply: str) -> Reading:
        """What the reader finds in a reply at this moment."""
        history = [*self.history, Message(role="assistant", content=reply)]
        context, text = Context.of(self.scenario, history)
        return LexicalReader().read(text, context)

    def worth(self, reply: str) -> float:
        """The appraisal's part of the change: momentum and mood are the same for both."""
        beliefs = appraisal.believe(self.read(reply), self.scenario)
        return sum(appraisal.contributions(beliefs, self.scenario.group).values())


def pairs() -> Iterator[Pair]:
    """All authored pairs."""
    for path in sorted(DATA.glob("contrast-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield _pair(json.loads(line))


def _pair(row: dict) -> Pair:
    scenario = Scenario(
        id=row["id"],
        persona=Persona(name="-"),
        group=row["group"],
        situation=Situation(
            domain=row["domain"], title=row["situation"], who=row["who"], facts=tuple(row["facts"])
        ),
        goal=row["goal"],
        needs=tuple(row["needs"]),
        felt=row["felt"]["emotion"],
        intensity=row["felt"]["intensity"],
        display=row["display"],
        opener=row["history"][0]["content"],
    )
    history = tuple(Message.model_validate(m) for m in row["history"])
    return Pair(row["id"], scenario, history, row["better"], row["worse"])


def accuracy(chosen: Iterable[Pair]) -> tuple[float, int]:
    """Share ordered rightly (a tie counts half) and the number of pairs."""
    scores = [_right(p) for p in chosen]
    return (sum(scores) / len(scores) if scores else 0.0), len(scores)


def _right(pair: Pair) -> float:
    gap = pair.worth(pair.better) - pair.worth(pair.worse)
    return 1.0 if gap > 1e-9 else 0.5 if abs(gap) <= 1e-9 else 0.0


def main() -> None:
    every = list(pairs())
    for name, chosen in (
        ("tuning", [p for p in every if not p.set_aside]),
        ("set aside", [p for p in every if p.set_aside]),
    ):
        share, n = accuracy(chosen)
        print(f"{name:10} {share:6.1%} of {n}")
        for field in ("goal", "group", "display"):
            by: dict[str, list[Pair]] = defaultdict(list)
            for p in chosen:
                by[getattr(p.scenario, field).value].append(p)
            print("   ", *(f"{k} {accuracy(v)[0]:.0%}" for k, v in sorted(by.items())))


if __name__ == "__main__":
    main()
