"""Learning curves and arms of docs/training.md: the same policy trained in several ways.

python -m benchmarks.learning_curves run OUT [ARM...] [--seeds 1 2 3]   train what is not done yet
python -m benchmarks.learning_curves table OUT                          every run, and arms paired
python -m benchmarks.learning_curves plot OUT --out FILE.svg            the curves of grpo and ppo
python -m benchmarks.learning_curves others OUT LABEL [ARM...] --user USER --preset PRESET
    --scenarios SCENARIOS                                               the same on other people

OUT holds a run directory ARM-SEED for each. Arms differ from `configs/seedling*.toml` in the
settings below alone, and all take 40 optimiser steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from heartloop import config as settings
from heartloop.policy.base import make_policy
from heartloop.policy.evals.evaluate import evaluate, is_errored
from heartloop.policy.evals.report import load_run
from heartloop.policy.evals.stats import Interval, paired
from heartloop.policy.train.run import train
from heartloop.simusers.scenario import scenarios
from heartloop.types import Episode

CONFIGS = Path(__file__).parent.parent / "configs"
COMMON = ("eval.every=10", "world.actors=0")
STILL = ("ppo.learn_trunk=false", "ppo.passes=16", "ppo.learning_rate=1e-3")
OUTCOME = ("reward.credit=terminal", "ppo.lam=1.0")


class Arm(NamedTuple):
    """A way of training."""

    config: str
    changes: tuple[str, ...] = ()
    base: str = ""
    """The arm it is compared with."""


ARMS: Mapping[str, Arm] = {
    "grpo": Arm("seedling"),
    "grpo-turn": Arm("seedling", ("reward.credit=turn",), "grpo"),
    "grpo-centred": Arm("seedling", ("reward.credit=centred",), "grpo"),
    "grpo-think": Arm("seedling", ("policy.think=true", "policy.max_new_tokens=64"), "grpo"),
    "grpo-curriculum": Arm("seedling", ("rl.curriculum=20",), "grpo"),
    "grpo-improve": Arm(
        "seedling",
        ('run.stages=["improve", "rl"]', "improve.steps=10", "rl.steps=30", "improve.least=0.3"),
        "grpo",
    ),
    "ppo": Arm("seedling-ppo"),
    "ppo-terminal": Arm("seedling-ppo", OUTCOME, "ppo"),
    "ppo-still": Arm("seedling-ppo", STILL, "ppo"),
    "ppo-still-terminal": Arm("seedling-ppo", (*STILL, *OUTCOME), "ppo-still"),
    "ppo-still-short": Arm("seedling-ppo", (*STILL, "reward.credit=terminal"), "ppo-still"),
}
CURVES = ("grpo", "grpo-turn", "ppo")
Finals = dict[str, float]
"""Final emotion by scenario."""


def run(out: Path, arm: str, seed: int) -> None:
    """Train one arm with one seed, unless that is done."""
    folder = out / f"{arm}-{seed}"
    if (folder / "report.html").exists():
        return
    how = ARMS[arm]
    own = (f"run.out={folder}", f"run.seed={seed}", f"run.name={arm}")
    config = settings.load(CONFIGS / f"{how.config}.toml", (*COMMON, *how.changes, *own))
    print(f"{arm}, seed {seed}", flush=True)
    train(config, resume=folder.exists())


def finals(path: Path) -> Finals:
    """Of the dialogues in a file, those with a score."""
    rows = map(Episode.model_validate_json, path.read_text("utf-8").splitlines())
    return {e.scenario.id: _final(e) for e in rows if not is_errored(e)}


def _final(episode: Episode) -> float:
    scored = [turn.reaction.emotion for turn in episode.turns if turn.reaction]
    return float(scored[-1]) if scored else float(episode.opening.emotion)


def gain(before: Finals, after: Finals) -> Interval:
    """Paired by person."""
    both = sorted(before.keys() & after.keys())
    return paired([before[key] for key in both], [after[key] for key in both])


def curve(folder: Path) -> list[tuple[int, float]]:
    """Steps and mean final emotion of the unseen people."""
    found = [(0, finals(folder / "eval-before.jsonl"))]
    for path in folder.glob("eval-*.jsonl"):
        if (step := path.stem.removeprefix("eval-")).isdigit():
            found.append((int(step), finals(path)))
    return sorted((step, fmean(rows.values())) for step, rows in found)


def seeds(out: Path, arm: str) -> Iterator[tuple[int, Path]]:
    """The finished runs of an arm."""
    for folder in sorted(out.glob(f"{arm}-*")):
        seed = folder.name.removeprefix(f"{arm}-")
        if seed.isdigit() and (folder / "report.html").exists():
            yield int(seed), folder


def show(found: Interval, sign: str = "+") -> str:
    """Mean and 95 % interval."""
    return f"{found.mean:{sign}.1f} [{found.low:.1f}, {found.high:.1f}]"


def table(out: Path) -> None:
    """A row for each run, with what the critic explained; then each arm against its base."""
    print("| arm | seed | before | step 10 | 20 | 30 | 40 | gain | critic explains | distinct-2 "
          "kept | sampled tokens |")  # fmt: skip
    print("|---" * 11 + "|")
    for arm in ARMS:
        for seed, folder in seeds(out, arm):
            print(_row(arm, seed, folder))
    print("\n| arm | against | seeds | difference at the end |\n|---|---|---|---|")
    for arm, how in ARMS.items():
        if how.base and (line := _against(out, arm, how.base)):
            print(line)


def _row(arm: str, seed: int, folder: Path) -> str:
    found = load_run(folder)
    ends = " | ".join(f"{mean:.1f}" for _, mean in curve(folder))
    kept = f"{found.test.distinct_kept:.0%}" if found.test else ""
    tokens = sum(row.get("sampled_tokens") or 0 for row in found.metrics)
    before, after = (finals(folder / f"eval-{when}.jsonl") for when in ("before", "after"))
    return (
        f"| {arm} | {seed} | {ends} | {show(gain(before, after))} | {_explained(found.metrics)} | "
        f"{kept} | {tokens:,} |"
    )


def _explained(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Explained variance over all steps but the first, at which the critic knows nothing."""
    found = (row.get("explained_variance") for row in metrics[1:])
    values = [value for value in found if value is not None]
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""


def _against(out: Path, arm: str, base: str) -> str:
    """One arm beside another, paired by person and seed."""
    own, other = dict(seeds(out, arm)), dict(seeds(out, base))
    shared = sorted(own.keys() & other.keys())
    pairs = [
        (theirs[person], mine[person])
        for seed in shared
        for mine, theirs in [[finals(f[seed] / "eval-after.jsonl") for f in (own, other)]]
        for person in sorted(mine.keys() & theirs.keys())
    ]
    if not pairs:
        return ""
    found = paired([a for a, _ in pairs], [b for _, b in pairs])
    return f"| {arm} | {base} | {', '.join(map(str, shared))} | {show(found)} |"


def others(asked: argparse.Namespace) -> None:
    """What trained policies reach with other people, beside the beginning.

    Dialogues are kept in OUT/LABEL-RUN.jsonl, and played once.
    """
    people = scenarios(asked.scenarios)[: asked.number]

    def played(name: str, policy: str) -> Finals:
        path: Path = asked.folder / f"{asked.label}-{name}.jsonl"
        if not path.exists():
            part = path.with_suffix(".part")
            part.unlink(missing_ok=True)
            evaluate(make_policy(policy), people, user=asked.user, preset=asked.preset, out=part)
            part.rename(path)
        _check_same(path, [person.id for person in people], asked.preset)
        return finals(path)

    before = played("seedling", "seedling")
    print("| run | before | after | gain | gain with the people it was trained on | survives |")
    print("|---" * 6 + "|")
    for arm in asked.arms:
        for seed, folder in seeds(asked.folder, arm):
            after = played(f"{arm}-{seed}", str(_last(folder)))
            there = gain(before, after)
            here = gain(*(finals(folder / f"eval-{when}.jsonl") for when in ("before", "after")))
            print(f"| {arm}-{seed} | {fmean(before.values()):.1f} | {fmean(after.values()):.1f} | "
                  f"{show(there)} | {show(here)} | {there.mean / here.mean:.0%} |")  # fmt: skip


def _check_same(path: Path, people: Sequence[str], preset: str) -> None:
    rows = [Episode.model_validate_json(line) for line in path.read_text("utf-8").splitlines()]
    if sorted(row.scenario.id for row in rows) != sorted(people) or {
        row.preset for row in rows
    } != {preset}:
        raise SystemExit(f"{path} holds other people or rules: choose another LABEL")


def _last(folder: Path) -> Path:
    """The checkpoint a run ended with."""
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def plot(out: Path, path: Path) -> None:
    """A thin line for each seed, a thick one for their mean."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ink = "#1c2430"
    colours = dict(zip(CURVES, ("#8a94a3", "#3c6e9c", "#b3492d"), strict=True))
    names = dict(zip(CURVES, ("GRPO, outcome", "GRPO, turns", "PPO, turns"), strict=True))
    style = {"svg.fonttype": "none", "svg.hashsalt": "heartloop", "font.family": "sans-serif"}
    with rc_context({**style, "font.size": 9, "axes.spines.top": False,
                     "axes.spines.right": False}):  # fmt: skip
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axis = figure.subplots()
        for arm in CURVES:
            lines = [curve(folder) for _, folder in seeds(out, arm)]
            if not lines:
                continue
            steps = [step for step, _ in lines[0]]
            for line in lines:
                axis.plot(*zip(*line, strict=True), color=colours[arm], linewidth=0.8, alpha=0.55)
            means = [fmean(line[at][1] for line in lines) for at in range(len(steps))]
            axis.plot(steps, means, "o-", color=colours[arm], linewidth=2.2, markersize=4)
            axis.annotate(names[arm], (steps[-1], means[-1]),
                          xytext=(8, 0), textcoords="offset points", va="center",
                          color=colours[arm])  # fmt: skip
        first = curve(next(seeds(out, CURVES[0]))[1])[0][1]
        axis.axhline(first + 25, color=ink, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.annotate("25 points above the beginning", (0, first + 25), xytext=(2, 4),
                      textcoords="offset points", color=ink)  # fmt: skip
        axis.set(ylim=(0, 100), xlabel="optimiser steps, 32 dialogues each",
                 ylabel="mean final emotion, 100 unseen people")  # fmt: skip
        axis.set_xlim(0, 50)
        axis.tick_params(length=0, colors=ink)
        figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")


def main() -> None:
    """Train, or show what was trained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="what", required=True)
    for what in ("run", "table", "plot", "others"):
        part = parts.add_parser(what)
        part.add_argument("folder", type=Path, metavar="OUT")
        if what == "others":
            part.add_argument("label", help="begins the names of the files")
        if what in ("run", "others"):
            part.add_argument("arms", nargs="*", metavar="ARM", help=", ".join(ARMS))
        if what == "run":
            part.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3))
        if what == "plot":
            part.add_argument("--out", type=Path, required=True)
        if what == "others":
            part.add_argument("--user", default="embedded")
            part.add_argument("--preset", default="default")
            part.add_argument("--scenarios", default="test")
            part.add_argument("--number", type=int, default=100)
    asked = parser.parse_args()
    if unknown := set(getattr(asked, "arms", ())) - set(ARMS):
        parser.error(f"no arm {sorted(unknown)}; known: {', '.join(ARMS)}")
    if "arms" in asked and not asked.arms:
        asked.arms = list(CURVES)
    if asked.what == "run":
        for seed in asked.seeds:
            for arm in asked.arms:
                run(asked.folder, arm, seed)
    elif asked.what == "table":
        table(asked.folder)
    elif asked.what == "plot":
        plot(asked.folder, asked.out)
    else:
        others(asked)


if __name__ == "__main__":
    main()
