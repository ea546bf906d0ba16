"""The figures of docs/loops.md.

python -m benchmarks.loops answers FILE       recorded solvers: single, vote, oracle, flips
python -m benchmarks.loops dialogue           loops at equal budget with embedded users
python -m benchmarks.loops dialogue seedling  the same with the seedling drafting
python -m benchmarks.loops speed              what a loop costs beside its policy
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from heartloop.env.play import Dialogue, Policy, Prompt
from heartloop.llm import Decoding, ScriptedModel
from heartloop.policy import scripted
from heartloop.policy.base import make_policy
from heartloop.policy.chat import ChatPolicy
from heartloop.policy.evals.stats import Interval, interval, paired
from heartloop.policy.loops import Budget, make_loop
from heartloop.policy.loops.dialogue import talk
from heartloop.policy.loops.judges import StandIn, Visible
from heartloop.policy.loops.solve import solve
from heartloop.policy.loops.summary import summary
from heartloop.policy.loops.tasks import load, recorded
from heartloop.rewards import reward
from heartloop.rewards.answers import Question
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.scenario import pack
from heartloop.types import Reply, Scenario

SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
ARMS = ("best-of-n", "heart", "neutral", "demand", "random")
JUDGES = ("rehearsal", "stand-in", "form")
SAMPLES = 5


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


def answers(path: Path) -> None:
    """The tables of recorded solvers, which know no cue."""
    questions = load(path)
    print("| policy or rule | right % | 95 % |\n|---|---|---|")
    for name in SOLVERS:
        _row(name, summary(solve(make_loop("single", recorded(path, name)), questions)).accuracy)
    loop = make_loop(
        "resample", recorded(path, *SOLVERS), mode="all", budget=Budget(samples=len(SOLVERS))
    )
    vote, oracle = summary(solve(loop, questions)), summary(solve(loop, questions, oracle=True))
    _row("majority of four, ties to the last", vote.accuracy)
    _row("oracle stops the loop (oracle-assisted)", oracle.accuracy)
    print("\nright among the first k:", *(f"{share:.1f}" for share in vote.any))
    print("resampling of the first alone:", *(f"{share:.1f}" for share in oracle.resampling))
    print(f"consecutive flips: {vote.right_to_wrong} lost, {vote.wrong_to_right} won")


def _row(name: str, found: Interval | None) -> None:
    print(f"| {name} | {found.mean:.1f} | {found.low:.1f} to {found.high:.1f} |" if found else name)


def dialogue(policy: Policy, number: int, arms: Sequence[str], judges: Sequence[str]) -> None:
    """Mean final emotion by arm and judge, at equal samples a turn."""
    people = pack("test")[:number]
    print("| judge | loop | samples a turn | final emotion | over single |\n|---|---|---|---|---|")
    single = [_final(policy, "single", "stand-in", person)[0] for person in people]
    print(f"| - | single | 1.0 | {interval(single)} | |")
    for judge in judges:
        for arm in arms:
            found = [_final(policy, arm, judge, person) for person in people]
            finals, samples = [f for f, _ in found], [s for _, s in found]
            mark = " (oracle-assisted)" if judge == "rehearsal" else ""
            print(
                f"| {judge}{mark} | {arm} | {sum(samples) / len(samples):.1f} | "
                f"{interval(finals)} | {paired(single, finals)} |",
                flush=True,
            )


def _final(policy: Policy, arm: str, judge: str, person: Scenario) -> tuple[float, float]:
    """Final emotion and samples a turn of one dialogue."""
    stage = Dialogue(EmbeddedUser(), person, 0, EmbeddedUser)
    steer = Visible(reward("length+repetition")) if judge == "form" else StandIn(EmbeddedUser)
    loop = make_loop(arm, policy, judge=steer, budget=Budget(samples=SAMPLES), dialogue=True)
    episode, traces = talk(stage, loop, rehearse=judge == "rehearsal")
    return episode.final, sum(t.samples for t in traces) / len(traces)


def speed() -> None:
    """Overhead beside a policy that waits, and 64 tasks in flight."""
    questions = [Question(id=str(n), text=f"Number {n}?", answers=("1",)) for n in range(64)]
    policy = ChatPolicy(ScriptedModel(lambda messages, decoding: "A: 1", 0.5), "slow", Decoding())
    loop = make_loop("heart", policy, budget=Budget(samples=SAMPLES))
    solve(loop, questions[:1], at_once=1)
    began = time.perf_counter()
    traces = solve(loop, questions, at_once=64)
    spent = time.perf_counter() - began
    print(f"64 tasks of {SAMPLES} samples at 0.5 s: {spent:.2f} s, "
          f"{SAMPLES * 0.5 / spent:.2f} of the ideal")  # fmt: skip
    assert all(trace.samples == SAMPLES for trace in traces)
    began = time.perf_counter()
    alone = solve(loop, questions[:2], at_once=1)
    whole, waited = time.perf_counter() - began, sum(t.seconds for t in alone)
    print(f"one task at a time: {100 * (whole - waited) / waited:.2f} % over the policy's own time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("answers", "dialogue", "speed"))
    parser.add_argument("name", nargs="?", default="mixed", help="file of answers, or policy")
    parser.add_argument("--number", type=int, default=100, help="people to talk with")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=JUDGES)
    asked = parser.parse_args()
    if asked.what == "answers":
        answers(Path(asked.name))
    elif asked.what == "speed":
        speed()
    else:
        policy = Mixed() if asked.name == "mixed" else make_policy(asked.name)
        dialogue(policy, asked.number, asked.arms, asked.judges)


if __name__ == "__main__":
    main()
