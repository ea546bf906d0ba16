"""The table of docs/training.md: what runs of `make train` gained, one row per run and set.

make train
heartloop train configs/seedling.toml --out runs/seedling-2 --set run.seed=2
python benchmarks/training_table.py runs/seedling runs/seedling-2
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from heartloop.policy.evals.report import Comparison, load_run
from heartloop.policy.evals.stats import Interval


def show(value: Interval | None) -> str:
    """Mean and 95 % interval."""
    return f"{value.mean:.1f} [{value.low:.1f}, {value.high:.1f}]" if value else "-"


def row(run: str, seed: object, name: str, found: Comparison) -> str:
    before, after = found.before, found.after
    return (
        f"| {run} | {seed} | {name} | {len(found.pairs)} | {show(before.final)} | "
        f"{show(after.final)} | {show(found.gain)} | {before.failure:.0%} → {after.failure:.0%} | "
        f"{before.success:.0%} → {after.success:.0%} | {found.distinct_kept:.0%} | "
        f"{after.commonest_share:.1%} |"
    )


def rows(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        run = load_run(folder)
        seed = run.config["run"]["seed"]
        for name, found in (("unseen people", run.test), ("real sentences", run.sentences)):
            if found:
                yield row(folder.name, seed, name, found)


def minutes(folder: Path) -> str:
    run = load_run(folder)
    seconds = sum(float(r["seconds"]) for r in run.metrics)
    return f"{folder.name}: {len(run.metrics)} steps, {seconds / 60:.1f} minutes of training."


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]]
    print("| run | seed | set | people | before | after | gain | failure | success | "
          "distinct-2 kept | commonest reply |")  # fmt: skip
    print("|---" * 11 + "|")
    print("\n".join(rows(folders)))
    print()
    print("\n".join(minutes(folder) for folder in folders))


if __name__ == "__main__":
    main()
