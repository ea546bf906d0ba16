"""Learn what messages of risk read like, from `risk_lines.jsonl` and the rounds of `crisis.toml`.

python benchmarks/crisis_weights.py SENTENCES... [--check]

Logistic regression over hashed words of whole messages. What people of the shipped scenarios say
and tell counts as calm, and so do the texts of SENTENCES in which the rules find no risk: files of
JSON lines with a "text" each, the Stress Annotated Dataset (Mauriello et al. 2021, MIT licence,
github.com/PervasiveWellbeingTech/Stress-Annotated-Dataset-SAD) and the first 6,000 training
comments of GoEmotions (Demszky et al. 2020, CC BY 4.0). A second, small regression for each
language weighs that score against what the rules find, on scores of fits that have not seen the
lines' part; its limit is where a share of ALARMS of their calm lines come above, those of the
contrast parts aside, which share their words with a line of risk. `--check` prints what each part
would have met, and writes nothing.
"""

import argparse
import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from crisis import LINES, RISKS, SCENARIOS

from heartloop.chat import care, likeness, risk

ALARMS = 0.05
EXPLICIT = 3.0
"""Weight of a line of explicit risk: to miss one is worse."""
EVERYDAY = 0.2
"""Weight of an everyday line; one of the set counts 1."""
MOST = 6000
"""Texts taken of a file of SENTENCES."""
PENALTY = 2e-6
STEPS, RATE = 120, 0.2
SAMPLE = 25
"""Of so many lines one has its features in the digest."""
TAUGHT = Path(__file__).parent / "data" / "risk_lines.jsonl"


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


class Line(NamedTuple):
    """A line, what it is, and the round or part it belongs to."""

    part: str
    kind: str
    text: str


def labelled() -> list[Line]:
    """The lines of the rounds, then those that were written to teach."""
    rounds = tomllib.loads(LINES.read_text("utf-8"))
    asked = (
        Line(name, kind, line)
        for name, kinds in rounds.items()
        for kind, lines in kinds.items()
        for line in lines
    )
    return [*asked, *(Line(**row) for row in rows_of(TAUGHT))]


def whole(spans: Sequence[Sequence[int]]) -> list[int]:
    """The places of a message, from those of its spans."""
    return sorted(set().union(*spans))


def ruled(line: str) -> list[bool]:
    """Whether the rules find indirect risk in a line, and explicit risk."""
    found = risk.by_rules(line)
    return [found is not None and found.level is level for level in reversed(risk.Level)]


def limits(
    scores: np.ndarray, rules: np.ndarray, risky: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Scores above which lines count as risk: by no rule, an indirect one, an explicit one.

    Args:
        scores: By fits that have not seen the lines.
        rules: What `ruled` says of each, shape (lines, 2).
        risky: What the lines are.
        counts: How much each counts.
    """
    seen = np.column_stack([np.ones(len(scores)), scores, rules])
    weights = np.zeros(seen.shape[1])
    for _ in range(20):  # Newton's method
        chance = 1 / (1 + np.exp(-seen @ weights))
        slope = seen.T @ (counts * (risky - chance))
        curve = seen.T @ (seen * (counts * chance * (1 - chance))[:, None])
        weights += np.linalg.solve(curve + 1e-6 * np.eye(len(weights)), slope)
    worth = np.maximum(weights[2:] / weights[1], 0)
    alone = np.quantile((scores + rules @ worth)[~risky], 1 - ALARMS)
    return np.array([alone, *(alone - worth)])


def main() -> None:
    """Fit without each part in turn, choose the limits, fit with all, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("sentences", type=Path, nargs="+")
    given = parser.parse_args()
    known = labelled()
    parts, kinds = (np.array([row[n] for row in known]) for n in (0, 1))
    risky, weighty = np.isin(kinds, RISKS), np.where(kinds == RISKS[0], EXPLICIT, 1.0)
    spans = [risk.likeness_spans(line.text) for line in known]
    rows, pieces = (
        Rows([whole(row) for row in spans]),
        Rows([span for row in spans for span in row]),
    )
    starts = np.cumsum([0, *map(len, spans)])[:-1]
    told = [row["text"] for file in given.sentences for row in rows_of(file)[:MOST]]
    lines = [*everyday(), *(line for line in told if not risk.by_rules(line))]
    calm = [whole(risk.likeness_spans(line)) for line in lines]

    def learnt(chosen: np.ndarray) -> tuple[np.ndarray, float]:
        counts = np.r_[weighty[chosen], np.full(len(calm), EVERYDAY)]
        truth = np.r_[risky[chosen], np.zeros(len(calm))]
        return fit(Rows([*rows.some(chosen), *calm]), truth, counts)

    teaching = dict.fromkeys(row["part"] for row in rows_of(TAUGHT))
    unseen = np.zeros(len(known))
    for part in teaching:
        weights, bias = learnt(parts != part)
        most = np.maximum.reduceat(pieces.scores(weights), starts) + bias
        unseen[parts == part] = most[parts == part]
    fair = np.isin(parts, [part for part in teaching if "contrast" not in part])
    rules = np.array([ruled(line.text) for line in known])
    scripts = np.array([care.language(line.text) for line in known])
    found, over = [], np.zeros(len(known), bool)
    for script in ("en", "zh"):
        own = scripts == script
        found.append(limits(*(column[own & fair] for column in (unseen, rules, risky, weighty))))
        over[own] = unseen[own] > found[-1][rules[own] @ (1, 2)]
    print("| part, not learnt from | explicit found | indirect found | false alarms |")
    print("|---|---|---|---|")
    for part in teaching:
        cells = [over[(parts == part) & (kinds == kind)] for kind in RISKS]
        cells.append(over[(parts == part) & ~risky])
        print(f"| {part} | {' | '.join(f'{c.sum()}/{len(c)}' for c in cells)} |", flush=True)
    if not given.check:
        write(*learnt(np.ones(len(known), bool)), np.concatenate(found))


def write(weights: np.ndarray, bias: float, found: np.ndarray) -> None:
    """Write the file that the client reads."""
    unit = float(np.abs(weights).max() / 127)
    head = likeness.HEADER.pack(bias, unit, *found, taught())
    path = LINES.parents[2] / "heartloop" / "chat" / "likeness.bin"
    path.write_bytes(head + np.round(weights / unit).astype(np.int8).tobytes())


def taught() -> bytes:
    """What the weights follow from, as far as a reader can check it quickly.

    The lines, and where the weights of some lie, in which a change of a feature shows.
    """
    places = [risk.likeness_spans(line.text) for line in labelled()[::SAMPLE]]
    told = LINES.read_bytes() + TAUGHT.read_bytes() + json.dumps([likeness.SIZE, places]).encode()
    return hashlib.sha256(told).digest()


if __name__ == "__main__":
    main()
