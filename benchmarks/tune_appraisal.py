"""Tune the appraisal's weights on the contrast pairs that are not set aside.

    python benchmarks/tune_appraisal.py [--write]

The hand-set weights are the prior: a ridge penalty holds every weight near its present value, and
five-fold cross-validation on the tuning pairs says how strong it should be. `--write` rewrites
`appraisal.toml`; the set-aside pairs are never read here.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import torch
from contrast import Pair, pairs

from heartloop.simusers import appraisal
from heartloop.simusers.lexical import is_severe
from heartloop.types import HiddenGoal

SHARED = ("understood", "validated", "autonomy", "burden")
GOALS = [g.value for g in HiddenGoal]


class Program(torch.nn.Module):
    """The appraisal program with its weights as parameters."""

    def __init__(self, features: list[str]) -> None:
        super().__init__()
        data = appraisal.tables()
        rows = [data["weights"][v] for v in SHARED] + [data["served"][g] for g in GOALS]
        prior = torch.tensor([[row.get(f, 0.0) for f in features] for row in rows])
        self.prior = prior
        self.known = torch.tensor([[float(f in row) for f in features] for row in rows])
        self.weights = torch.nn.Parameter(prior.clone())
        order = [*SHARED, *("served",) * len(GOALS)]
        self.bias = torch.tensor([data["bias"][v] for v in order])

    def worth(self, x: torch.Tensor, extra: torch.Tensor, goal: torch.Tensor,
              scale: torch.Tensor, spoiled: torch.Tensor) -> torch.Tensor:  # fmt: skip
        """Expected utility of each row of features."""
        logits = x @ self.weights.T + self.bias
        logits[:, 0] = logits[:, 0] + extra
        p = torch.sigmoid(logits)
        served = p[torch.arange(len(p)), len(SHARED) + goal]
        p = torch.stack((p[:, 0], p[:, 1], served, p[:, 2], p[:, 3]), 1)
        bad = torch.tensor([0.02, 0.02, 0.02, 0.02, 0.98])
        p = torch.where(spoiled[:, None], bad, p)
        data = appraisal.tables()["utility"]
        total = torch.zeros(len(p))
        for i, v in enumerate(appraisal.VARIABLES):
            total = total + data[v] * scale[:, i] * p[:, i]
        for key in (k for k in data if "_" in k):
            a, b = (appraisal.VARIABLES.index(v) for v in key.split("_"))
            total = total + data[key] * p[:, a] * p[:, b]
        return total

    def penalty(self) -> torch.Tensor:
        """How far the weights have moved; new ones cost three times as much."""
        moved = (self.weights - self.prior) ** 2
        return (moved * (1 + 2 * (1 - self.known))).sum()


def tensors(chosen: list[Pair], side: str, features: list[str]) -> tuple[torch.Tensor, ...]:
    groups, display = appraisal.tables()["group"], appraisal.tables().get("display", {})
    xs, extra, goals, scales, spoiled = [], [], [], [], []
    for p in chosen:
        reading = p.read(getattr(p, side))
        xs.append([reading[f] for f in features])
        shift = display.get(p.scenario.display.value, {})
        extra.append(sum(w * reading[f] for f, w in shift.items()))
        goals.append(GOALS.index(p.scenario.goal.value))
        table = groups.get(p.scenario.group.value, {})
        scales.append([table.get(v, 1.0) for v in appraisal.VARIABLES])
        spoiled.append(is_severe(reading.offences))
    return (torch.tensor(xs), torch.tensor(extra), torch.tensor(goals),
            torch.tensor(scales), torch.tensor(spoiled))  # fmt: skip


def fit(chosen: list[Pair], features: list[str], ridge: float) -> Program:
    program = Program(features)
    good, bad = tensors(chosen, "better", features), tensors(chosen, "worse", features)
    optimizer = torch.optim.LBFGS(program.parameters(), lr=0.5, max_iter=80)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        gap = program.worth(*good) - program.worth(*bad)
        loss = torch.nn.functional.softplus(1.0 - gap).sum() + ridge * program.penalty()
        loss.backward()
        return loss

    optimizer.step(closure)
    return program


@torch.no_grad()
def right(program: Program, chosen: list[Pair], features: list[str]) -> float:
    good, bad = tensors(chosen, "better", features), tensors(chosen, "worse", features)
    return float((program.worth(*good) > program.worth(*bad)).float().mean())


def write(program: Program, features: list[str]) -> None:
    path = Path(appraisal.__file__).with_name("appraisal.toml")
    text = path.read_text(encoding="utf-8")
    names = [f"weights.{v}" for v in SHARED] + [f"served.{g}" for g in GOALS]
    for name, row in zip(names, program.weights.detach().numpy(), strict=True):
        kept = sorted((f, round(float(w), 2)) for f, w in zip(features, row, strict=True))
        lines = "\n".join(f"{f} = {w}" for f, w in kept if abs(w) >= 0.05)
        text = re.sub(
            rf"\[{re.escape(name)}\]\n(?:[^\[]*?)(?=\n\[|\Z)", f"[{name}]\n{lines}\n", text
        )
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--ridge", type=float)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tuning = [p for p in pairs() if not p.set_aside]
    seen = {f for p in tuning for s in (p.better, p.worse) for f in p.read(s).features}
    features = sorted(seen)
    print(len(tuning), "pairs", len(features), "features")
    print("present", f"{right(Program(features), tuning, features):.1%}")
    folds = np.random.default_rng(0).permutation(len(tuning)) % 5
    for ridge in [args.ridge] if args.ridge else (0.2, 0.5, 1.0, 2.0, 5.0):
        shares = []
        for k in range(5):
            train = [p for p, f in zip(tuning, folds, strict=True) if f != k]
            test = [p for p, f in zip(tuning, folds, strict=True) if f == k]
            shares.append(right(fit(train, features, ridge), test, features))
        full = fit(tuning, features, ridge)
        print(f"ridge {ridge}: cross-validated {np.mean(shares):.1%}, "
              f"fitted {right(full, tuning, features):.1%}")  # fmt: skip
    if args.write:
        write(full, features)


if __name__ == "__main__":
    main()
