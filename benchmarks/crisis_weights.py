"""Learn what messages of risk read like, from the lines of `tests/chat/crisis.toml`.

python benchmarks/crisis_weights.py SENTENCES [--check]

Logistic regression over hashed words. What people of the shipped scenarios say and tell counts as
calm, and so do the sentences of the Stress Annotated Dataset in which the rules find no risk:
SENTENCES is a file of JSON lines with a "text" each (Mauriello et al. 2021, MIT licence,
github.com/PervasiveWellbeingTech/Stress-Annotated-Dataset-SAD). The threshold is the score above
which a share of CALM of the calm lines of the set come, by fits that have not seen their round.
`--check` prints what each round would have met, rules aside, and writes nothing.
"""

import argparse
import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crisis import LINES, RISKS, SCENARIOS

from heartloop.chat import likeness, risk

CALM = 0.04
EVERYDAY = 0.35
"""Weight of an everyday line; one of the set counts 1."""
PENALTY = 3e-6
STEPS, RATE = 120, 0.2


class Rows:
    """Messages as places of weights; each row has length 1."""

    def __init__(self, places: Sequence[Sequence[int]]) -> None:
        """Lay them out one after the other."""
        sizes = [len(p) for p in places]
        self.places = places
        self._at = np.array([place for row in places for place in row], int)
        self._row = np.repeat(np.arange(len(places)), sizes)
        self._length = 1 / np.sqrt(np.maximum(sizes, 1))

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """A score for each row."""
        return np.bincount(self._row, weights[self._at], len(self.places)) * self._length

    def gradient(self, errors: np.ndarray) -> np.ndarray:
        """Of the weights, from an error for each row."""
        return np.bincount(self._at, (errors * self._length)[self._row], likeness.SIZE)

    def some(self, chosen: Sequence[bool]) -> list[Sequence[int]]:
        """The places of chosen rows."""
        return [row for row, kept in zip(self.places, chosen, strict=True) if kept]


def fit(rows: Rows, risky: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias, by Adam over all rows at once."""
    weights, first, second = (np.zeros(likeness.SIZE) for _ in range(3))
    bias, counts = 0.0, counts / counts.sum()
    for step in range(1, STEPS + 1):
        errors = (1 / (1 + np.exp(-(rows.scores(weights) + bias))) - risky) * counts
        slope = rows.gradient(errors) + PENALTY * weights
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        pace = np.sqrt(second / (1 - 0.99**step)) + 1e-8
        weights -= RATE * (first / (1 - 0.9**step)) / pace
        bias -= 5 * errors.sum()
    return weights, bias


def everyday() -> list[str]:
    """What the people of the shipped scenarios say first, and what befell them."""
    said = dict[str, None]()
    for row in (row for file in sorted(SCENARIOS.glob("*.jsonl")) for row in rows_of(file)):
        told = row["situation"]
        lines = (row["opener"], told["cause"], told["tried"], told["stuck"], *told["facts"])
        said |= dict.fromkeys(lines)
    return list(said)


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with file.open(encoding="utf-8") as rows:
        return [json.loads(row) for row in rows]


def labelled() -> list[tuple[str, str, str]]:
    """Round, kind and text of every line."""
    rounds = tomllib.loads(LINES.read_text("utf-8"))
    return [
        (name, kind, line)
        for name, kinds in rounds.items()
        for kind, lines in kinds.items()
        for line in lines
    ]


def main() -> None:
    """Fit without each round in turn, choose the threshold, fit with all, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("sentences", type=Path)
    given = parser.parse_args()
    known = labelled()
    names, kinds = (np.array([row[n] for row in known]) for n in (0, 1))
    rounds = dict.fromkeys(name for name, _, _ in known)
    risky = np.isin(kinds, RISKS)
    rows = Rows([risk.likeness_places(line) for _, _, line in known])
    told = [row["text"] for row in rows_of(given.sentences)]
    lines = [*everyday(), *(line for line in told if not risk.by_rules(line))]
    calm = [risk.likeness_places(line) for line in lines]

    def learnt(chosen: np.ndarray) -> tuple[np.ndarray, float]:
        counts = np.r_[np.ones(chosen.sum()), np.full(len(calm), EVERYDAY)]
        truth = np.r_[risky[chosen], np.zeros(len(calm))]
        return fit(Rows([*rows.some(chosen), *calm]), truth, counts)

    unseen = np.zeros(len(known))
    for name in rounds:
        weights, bias = learnt(names != name)
        unseen[names == name] = (rows.scores(weights) + bias)[names == name]
    threshold = float(np.quantile(unseen[~risky], 1 - CALM))
    print("| round, not learnt from | explicit found | indirect found | false alarms |")
    print("|---|---|---|---|")
    for name in rounds:
        over = unseen[names == name] > threshold
        cells = [over[kinds[names == name] == kind] for kind in RISKS]
        cells.append(over[~risky[names == name]])
        print(f"| {name} | {' | '.join(f'{c.sum()}/{len(c)}' for c in cells)} |")
    if not given.check:
        write(*learnt(np.ones(len(known), bool)), threshold)


def write(weights: np.ndarray, bias: float, threshold: float) -> None:
    """Write the file that the client reads."""
    unit = float(np.abs(weights).max() / 127)
    head = likeness.HEADER.pack(bias, unit, threshold, taught())
    path = LINES.parents[2] / "heartloop" / "chat" / "likeness.bin"
    path.write_bytes(head + np.round(weights / unit).astype(np.int8).tobytes())


def taught() -> bytes:
    """What the weights follow from, as far as a reader can check it quickly.

    The lines, and where the weights of each lie, in which every change of a feature shows.
    """
    places = [risk.likeness_places(line) for _, _, line in labelled()]
    told = LINES.read_bytes() + json.dumps([likeness.SIZE, places]).encode()
    return hashlib.sha256(told).digest()


if __name__ == "__main__":
    main()
