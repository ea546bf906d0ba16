"""Is the embedded user true? Every figure that says so, from one command.

    python benchmarks/truth.py [--write docs/simulated_users.md]

Sections: contrast pairs, EmoBench EA, the distribution of changes beside the published one, ties in
groups of eight, the hidden goal's strategies, speed, and repeats over 10,000 dialogues.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from contrast import accuracy, pairs

from heartloop.env.play import LocalWorld, Prompt, Task, play_many
from heartloop.policy import acts
from heartloop.policy.base import make_policy
from heartloop.simusers import appraisal
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.lexical import LexicalReader
from heartloop.simusers.reading import Context
from heartloop.simusers.scenario import pack
from heartloop.types import Episode, HiddenGoal, Persona, Reply, Scenario, Situation

READ = """What the figures say. The contrast pairs were written from human judgement, without
looking at the reader. No weight was fitted on the set-aside quarter, but its share was looked at
while the defences against reward hackers were chosen (it fell from 91.6 to 90.8 %), so that it is
no longer quite blind. EmoBench EA asks for the most
effective thing to do in a described scene; a lexical reader made for replies to a person has no
grip on that, and its figure is at chance. Beside the published trajectories our users move more by
the reply and less by chance: below 40 they recover less often, above 50 they stay content more
often. The mix of scripted policies is ours, so the shares of ends measure nothing else.
"""
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MIX = (
    "cheerleader", "brush_off", "interrogator", "analyst", "adviser", "adviser", "neutral",
    "listener", "listener", "reflective", "oracle",
)  # fmt: skip
"""A mix of scripted policies from bad to good, standing in for the twelve published models."""
PUBLISHED_POSITIVE = {10: 4, 20: 15, 30: 33, 40: 53, 50: 67, 60: 77, 70: 90, 80: 97, 90: 99}
"""Percent of positive changes by emotion level, DeepSeek-V3 as judge (measured on public logs)."""


def contrast_section() -> list[str]:
    every = list(pairs())
    lines = ["## Contrast pairs", "", "| pairs | ordered rightly | number |", "|---|---|---|"]
    for name, aside in (("tuning", False), ("set aside before tuning", True)):
        share, n = accuracy(p for p in every if p.set_aside == aside)
        lines.append(f"| {name} | {share:.1%} | {n} |")
    aside = [p for p in every if p.set_aside]
    for field in ("goal", "group", "display"):
        by = defaultdict(list)
        for p in aside:
            by[getattr(p.scenario, field).value].append(p)
        shares = ", ".join(f"{k} {accuracy(v)[0]:.0%}" for k, v in sorted(by.items()))
        lines += ["", f"Set aside, by {field}: {shares}."]
    return lines


def emobench_section(path: Path) -> list[str]:
    lines = ["## EmoBench EA (English), gold choice liked best", ""]
    if not path.exists():
        return [*lines, f"(no {path.name} here)"]
    rows = [r for r in map(json.loads, path.open(encoding="utf-8")) if r["language"] == "en"]
    hits: Counter[str] = Counter()
    chance: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row in rows:
        worth = [_liking(row["scenario"], choice) for choice in row["choices"]]
        best = [c for c, w in zip(row["choices"], worth, strict=True) if w == max(worth)]
        for key in (row["question type"], "all"):
            total[key] += 1
            chance[key] += 1 / len(row["choices"])
            hits[key] += (row["label"] in best) / len(best)
    lines += ["| items | number | gold liked best | chance |", "|---|---|---|---|"]
    for key in sorted(total):
        n = total[key]
        lines.append(f"| {key} | {n} | {hits[key] / n:.1%} | {chance[key] / n:.1%} |")
    return lines


def _liking(story: str, choice: str) -> float:
    """Mean worth over the eight goals: the items state none."""
    worth = 0.0
    for goal in HiddenGoal:
        s = Scenario(id="item", persona=Persona(name="-"), group="passive", goal=goal,
                     situation=Situation(domain="", title=story), felt="distress",
                     opener=story)  # fmt: skip
        reading = LexicalReader().read(choice, Context(s, (story,)))
        worth += sum(appraisal.contributions(appraisal.believe(reading, s), s.group).values())
    return worth


def played(names: Sequence[str], split: str, preset: str, seeds: Sequence[int]) -> list[Episode]:
    from heartloop.simusers.dynamics import preset as rules

    episodes = []
    for name in names:
        tasks = [Task(s, seed) for seed in seeds for s in pack(split)]
        world = LocalWorld(lambda: EmbeddedUser(rules(preset)))
        episodes += play_many(world, make_policy(name), tasks)
    return episodes


def distribution_section(path: Path) -> list[str]:
    ours = played(MIX, "test", "sage-eval", (0,))
    lines = ["## Changes beside the published trajectories (preset sage-eval)", ""]
    lines += ["| level | P(positive) here | published |", "|---|---|---|"]
    up, seen = Counter(), Counter()
    changes, after = [], defaultdict(list)
    for e in ours:
        level, last = 40.0, None
        for change, turn in zip(e.changes, e.turns, strict=False):
            seen[int(level // 10) * 10] += 1
            up[int(level // 10) * 10] += change > 0
            if last is not None:
                after[last > 0].append(change > 0)
            changes.append(change)
            last, level = change, turn.reaction.emotion if turn.reaction else level
    for level in PUBLISHED_POSITIVE:
        if seen[level]:
            share = up[level] / seen[level]
            lines.append(f"| {level}s | {share:.0%} | {PUBLISHED_POSITIVE[level]} % |")
    q = np.percentile(changes, [5, 25, 50, 75, 95])
    lines += ["", f"Change: mean {np.mean(changes):.2f}, quantiles 5/25/50/75/95 %: "
              + ", ".join(f"{x:.1f}" for x in q)
              + f"; next is positive after a positive {np.mean(after[True]):.0%} (published 77 %), "
              f"after a negative {np.mean(after[False]):.0%} (published 25 %).", ""]  # fmt: skip
    ends = Counter(e.stop.value for e in ours if e.stop)
    lines += ["| end | here | published |", "|---|---|---|"]
    for end, share in (("turn_limit", "49 %"), ("failure", "37 %"), ("success", "14 %")):
        lines.append(f"| {end} | {ends[end] / len(ours):.0%} | {share} |")
    lines += ["", f"Mean final {np.mean([e.final for e in ours]):.1f}, SD "
              f"{np.std([e.final for e in ours]):.1f} (published SD 31 to 39)."]  # fmt: skip
    if path.exists():
        rows = [json.loads(x) for x in path.open(encoding="utf-8")]
        rows = [r for r in rows if r["simulator"].startswith("deepseek")]
        lines += ["", f"Published mean final over the same judge's models: "
                  f"{np.mean([r['final'] for r in rows]):.1f}."]  # fmt: skip
    return lines


def ties_section() -> list[str]:
    """Groups of eight samples of one policy on one scenario and one user seed."""
    lines = ["## Ties: groups of 8 samples of one policy without any spread", ""]
    lines += ["| policy | groups | tied |", "|---|---|---|"]
    for name in ("neutral", "adviser", "listener", "reflective", "oracle"):
        tasks = [Task(s, 0, sample) for s in pack("test")[:40] for sample in range(8)]
        groups: dict[str, set[float]] = defaultdict(set)
        for e in play_many(LocalWorld(EmbeddedUser), make_policy(name), tasks):
            groups[e.scenario.id].add(e.final)
        tied = np.mean([len(g) == 1 for g in groups.values()])
        lines.append(f"| {name} | {len(groups)} | {tied:.1%} |")
    return lines


STRATEGIES = {
    "analysis": "analysis", "advice": "suggest", "others": "motive", "reflection": "insight",
    "praise": "affirm", "listening": "invite", "empathy": "meaning", "agreement": "agree",
}  # fmt: skip
"""The act one would expect to serve each goal."""
OTHERS = ("reflect", "advise", "stock")


@dataclass(frozen=True)
class Strategy:
    """One act in every turn."""

    act: str
    reveals: bool = False

    @property
    def name(self) -> str:
        """Stored with its episodes."""
        return f"act:{self.act}"

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """The act, worded for each prompt."""
        return [Reply(text=acts.say(self.act, p.history, Random(p.seed))) for p in prompts]


def goal_table(scenarios: Sequence[Scenario]) -> dict[tuple[str, str], float]:
    """Mean final emotion by hidden goal and act: those of `STRATEGIES` and three more."""
    finals: dict[tuple[str, str], list[float]] = defaultdict(list)
    for act in (*STRATEGIES.values(), *OTHERS):
        tasks = [Task(s, 0) for s in scenarios]
        for e in play_many(LocalWorld(EmbeddedUser), Strategy(act), tasks):
            finals[e.scenario.goal.value, act].append(e.final)
    return {key: float(np.mean(values)) for key, values in finals.items()}


def goals_section() -> list[str]:
    table = goal_table(pack("train")[:240])
    names = (*STRATEGIES.values(), *OTHERS)
    lines = [
        "## The hidden goal decides which strategy works",
        "",
        "Mean final emotion (240 train scenarios) when one act is used in every turn; bold: the "
        "act one would expect to serve the goal.",
        "",
        "| goal | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for goal, own in STRATEGIES.items():
        row = [f"**{table[goal, n]:.0f}**" if n == own else f"{table[goal, n]:.0f}" for n in names]
        lines.append(f"| {goal} | " + " | ".join(row) + " |")
    return lines


def repeats_section(dialogues: int) -> list[str]:
    repeats = turns = 0
    start = time.process_time()
    policies = [make_policy(n) for n in ("neutral", "reflective", "listener", "adviser")]
    scenarios = pack("train") + pack("test")
    for i in range(0, dialogues, 500):
        tasks = [
            Task(scenarios[(i + j) % len(scenarios)], i + j) for j in range(min(500, dialogues - i))
        ]
        world = LocalWorld(EmbeddedUser)
        for e in play_many(world, policies[(i // 500) % 4], tasks):
            texts = [m.content for m in e.history if m.role == "user"]
            repeats += len(texts) - len(set(texts))
            turns += len(e.turns)
    rate = turns / (time.process_time() - start)
    return ["## Repeats and speed", "", f"{repeats} repeated user messages within a dialogue over "
            f"{dialogues:,} dialogues ({turns:,} turns). Whole loop with scripted policies: "
            f"{rate:,.0f} turns per CPU second; the user alone: {_speed():,.0f}."]  # fmt: skip


def _speed() -> float:
    """Turns per CPU second of the user alone, replaying recorded replies."""
    episodes = played(["neutral", "reflective"], "test", "default", (3,))
    start, turns = time.process_time(), 0
    for e in episodes:
        user = EmbeddedUser()
        user.open(e.scenario, e.seed)
        for i in range(len(e.turns)):
            user.react(e.history[: 2 * i + 2])
            turns += 1
    return turns / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--emobench", type=Path, default=SHARED / "emobench/EA.jsonl")
    parser.add_argument("--trajectories", type=Path,
                        default=SHARED / "rlver/sage_emotion_trajectories.jsonl")  # fmt: skip
    parser.add_argument("--dialogues", type=int, default=10_000)
    args = parser.parse_args()
    user = EmbeddedUser()
    made = "Made by `python benchmarks/truth.py --write docs/simulated_users.md`."
    lines = [f"# How true is the embedded user? ({user.id})", "", made, "", READ]
    for section in (contrast_section(), emobench_section(args.emobench),
                    distribution_section(args.trajectories), ties_section(), goals_section(),
                    repeats_section(args.dialogues)):  # fmt: skip
        lines += [*section, ""]
    text = "\n".join(lines)
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
