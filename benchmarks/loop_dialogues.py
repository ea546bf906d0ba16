"""What test-time loops reach in dialogues with embedded users, at equal samples a turn.

python -m benchmarks.loop_dialogues run POLICY --out FILE.json    final emotion by judge and loop
python -m benchmarks.loop_dialogues table FILE.json               the table of docs/loops.md
python -m benchmarks.loop_dialogues plot FILE.json --out FILE.svg its picture

POLICY is as on the command line, or "mixed": one of six scripted policies each time, good and bad,
which no cue can move.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from heartloop.env.play import Dialogue, Policy, Prompt
from heartloop.policy import scripted
from heartloop.policy.base import make_policy
from heartloop.policy.evals.stats import interval, paired
from heartloop.policy.loops import Budget, Judge, Loop, make_loop
from heartloop.policy.loops.context import MODES, Mode
from heartloop.policy.loops.dialogue import talk_many
from heartloop.policy.loops.judges import StandIn, Visible
from heartloop.rewards import reward
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.scenario import pack
from heartloop.types import Reply, Scenario

ARMS = ("best-of-n", "heart", "neutral", "demand", "random")
CONTROL = "neutral"
JUDGES = ("rehearsal", "stand-in", "form", "nobody")
"""Who chooses: a fork of the user; made-up users; a reward of form; nobody, the last is said."""
FORM = "length+repetition"
Row = dict[str, Any]


@dataclass(frozen=True)
class Mixed:
    """Replies as one of several scripted policies, drawn by seed: good and bad drafts."""

    name: str = "mixed"
    reveals: bool = False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """One reply to each prompt."""
        return [self._one(prompt) for prompt in prompts]

    def _one(self, prompt: Prompt) -> Reply:
        names = ("reflective", "listener", "neutral", "adviser", "interrogator", "brush_off")
        return scripted.make(Random(prompt.seed).choice(names))([prompt])[0]


def run(policy: Policy, asked: argparse.Namespace) -> list[Row]:
    """Every arm under every judge, and the single reply that they are compared to.

    What the file holds already is not done again, so that a run goes on where it was cut off.
    Arms come one after the other, each in the file as soon as it is through.
    """
    people = pack("test")[: asked.number]
    rows = _kept(asked)
    for judge, arm in [("-", "single"), *product(asked.judges, asked.arms)]:
        if any((row["judge"], row["arm"]) == (judge, arm) for row in rows):
            continue
        loop = _loop(arm, policy, judge, asked)
        played = _played(loop, people, asked.seed, rehearse=judge == "rehearsal")
        rows.append({"judge": judge, "arm": arm, "run": _settings(asked), **played})
        if asked.out:
            _keep(rows, asked.out)
        print(judge, arm, interval(rows[-1]["finals"]), file=sys.stderr, flush=True)
    return rows


def _kept(asked: argparse.Namespace) -> list[Row]:
    """The rows of an earlier run; of another kind or size of run they are refused."""
    if asked.out is None or not asked.out.exists():
        return []
    rows = _read(asked.out)
    for row in rows:
        if row["run"] != _settings(asked):
            raise SystemExit(
                f"{asked.out} holds {row['run']}, not {_settings(asked)}: choose another file"
            )
    return rows


def _keep(rows: Sequence[Row], path: Path) -> None:
    """Write beside the file and rename: whenever it is cut off, the file is the old or the new."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(rows) + "\n", encoding="utf-8")
    os.replace(draft, path)


def _read(path: Path) -> list[Row]:
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"expected a file of a run, got {path}: {error}") from error
    return rows


def _settings(asked: argparse.Namespace) -> Row:
    """What the rows of one file have in common."""
    return {"policy": asked.name, "mode": asked.mode, "samples": asked.samples,
            "seed": asked.seed, "people": asked.number}  # fmt: skip


def _loop(arm: str, policy: Policy, judge: str, asked: argparse.Namespace) -> Loop:
    if arm == "single":
        return make_loop(arm, policy, dialogue=True)
    chosen: Mode | None = asked.mode
    steer: Judge | None = None if judge == "nobody" else StandIn(EmbeddedUser)
    if judge == "form":
        steer = Visible(reward(FORM))
    selector = "last" if judge == "nobody" else None
    budget = Budget(samples=asked.samples)
    return make_loop(arm, policy, judge=steer, budget=budget, mode=chosen, selector=selector,
                     dialogue=True)  # fmt: skip


def _played(loop: Loop, people: Sequence[Scenario], seed: int, *, rehearse: bool) -> Row:
    """Final emotions, and the samples a turn."""
    stages = [Dialogue(EmbeddedUser(), person, seed, EmbeddedUser) for person in people]
    found = talk_many(stages, loop, rehearse=rehearse)
    for episode, _ in found:
        if episode.error:
            raise SystemExit(f"the dialogue with {episode.scenario.id} failed: {episode.error}")
    traces = [trace for _, each in found for trace in each]
    return {
        "finals": [episode.final for episode, _ in found],
        "samples": sum(trace.samples for trace in traces) / len(traces),
        "marked": sum(bool(a.error) for t in traces for a in t.attempts),
        "assisted": any(trace.oracle_assisted for trace in traces),
    }


def table(rows: Sequence[Row], control: str = CONTROL) -> None:
    """Mean final emotion with its interval, and differences paired over the people."""
    print("| judge | loop | people | samples a turn | final emotion | over single |"
          f" over {control} |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    finals = {(row["judge"], row["arm"]): row["finals"] for row in rows}
    for row in sorted(rows, key=_place):
        judge, arm = row["judge"], row["arm"]
        over = _over(row["finals"], finals.get(("-", "single")), arm == "single")
        beside = _over(row["finals"], finals.get((judge, control)), arm == control)
        mark = " (oracle-assisted)" if row["assisted"] else ""
        print(f"| {judge}{mark} | {arm} | {len(row['finals'])} | {row['samples']:.1f} | "
              f"{interval(row['finals'])} | {over} | {beside} |")  # fmt: skip


def _place(row: Row) -> tuple[int, int]:
    """The single reply first, then by judge and arm, in whatever order they were run."""
    judge, arm = row["judge"], row["arm"]
    return JUDGES.index(judge) if judge in JUDGES else -1, ARMS.index(arm) if arm in ARMS else -1


def _over(finals: Sequence[float], others: Sequence[float] | None, itself: bool) -> str:
    if others is None or itself:
        return ""
    found = paired(others, finals)
    return f"{found.mean:+.1f} [{found.low:.1f}, {found.high:.1f}]"


def plot(rows: Sequence[Row], path: Path) -> None:
    """One line for each arm, its mean with the interval; the single reply as a rule."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ink, muted, accent = "#1c2430", "#8a94a3", "#b3492d"
    colours = {CONTROL: ink, "heart": accent}
    judges = [j for j in JUDGES if any(row["judge"] == j for row in rows)]
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    style = {"svg.fonttype": "none", "svg.hashsalt": "heartloop", "font.family": "sans-serif"}
    with rc_context({**style, "font.size": 9, "axes.spines.top": False,
                     "axes.spines.right": False}):  # fmt: skip
        figure = Figure(figsize=(9, 0.4 * len(arms) + 1.1), layout="constrained")
        axes = figure.subplots(1, len(judges), sharey=True, sharex=True, squeeze=False)[0]
        for axis, judge in zip(axes, judges, strict=True):
            mine = [row for row in rows if row["judge"] == judge]
            for row in mine:
                at, found = arms.index(row["arm"]), interval(row["finals"])
                colour = colours.get(row["arm"], muted)
                axis.plot([found.low, found.high], [at, at], color=colour, linewidth=2)
                axis.plot([found.mean], [at], "o", color=colour, markersize=6)
            base = interval(next(row["finals"] for row in rows if row["arm"] == "single")).mean
            axis.axvline(base, color=muted, linewidth=1, linestyle=(0, (4, 3)))
            assisted = " (oracle-assisted)" if mine[0]["assisted"] else ""
            axis.set_title(judge + assisted, fontsize=9.5, loc="left", color=ink)
            axis.set(xlim=(0, 100), ylim=(len(arms) - 0.5, -0.5), yticks=range(len(arms)),
                     yticklabels=arms)  # fmt: skip
            axis.tick_params(length=0, colors=ink)
        figure.supxlabel("mean final emotion with 95 % interval; dashed: a single reply",
                         fontsize=9, color=ink)  # fmt: skip
        figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")


def main() -> None:
    """Run, or show what was run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "table", "plot"))
    parser.add_argument("name", help="policy, or file of a run")
    parser.add_argument("--out", type=Path, help="file of the run, gone on with; or new picture")
    parser.add_argument("--number", type=int, default=100, help="people to talk with")
    parser.add_argument("--samples", type=int, default=5, help="drafts a turn")
    parser.add_argument("--seed", type=int, default=0, help="of the users")
    parser.add_argument("--mode", choices=MODES, help="what is shown; none joins cue and words")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=JUDGES)
    parser.add_argument("--control", choices=ARMS, default=CONTROL, help="of the table")
    asked = parser.parse_args()
    if asked.what == "run":
        policy = Mixed() if asked.name == "mixed" else make_policy(asked.name)
        table(run(policy, asked))
        return
    rows = _read(Path(asked.name))
    if asked.what == "table":
        table(rows, asked.control)
    else:
        plot(rows, asked.out or Path(asked.name).with_suffix(".svg"))


if __name__ == "__main__":
    main()
