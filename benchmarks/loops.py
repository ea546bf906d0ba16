"""The figures of docs/loops.md that need no dialogue: recorded solvers, and speed.

python -m benchmarks.loops answers FILE       recorded solvers: single, vote, oracle, flips
python -m benchmarks.loops speed              what a loop costs beside its policy
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from heartloop.llm import Decoding, ScriptedModel
from heartloop.policy.chat import ChatPolicy
from heartloop.policy.evals.stats import Interval
from heartloop.policy.loops import Budget, make_loop
from heartloop.policy.loops.solve import solve
from heartloop.policy.loops.summary import summary
from heartloop.policy.loops.tasks import load, recorded
from heartloop.rewards.answers import Question

SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
SAMPLES = 5


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
    known = [share for share in vote.any if share is not None]
    print("\nright among the first k:", *(f"{share:.1f}" for share in known))
    print("resampling of the first alone:", *(f"{share:.1f}" for share in oracle.resampling))
    print(f"consecutive flips: {vote.right_to_wrong} lost, {vote.wrong_to_right} won")


def _row(name: str, found: Interval | None) -> None:
    print(f"| {name} | {found.mean:.1f} | {found.low:.1f} to {found.high:.1f} |" if found else name)


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
    parser.add_argument("what", choices=("answers", "speed"))
    parser.add_argument("name", nargs="?", type=Path, help="file of answers")
    asked = parser.parse_args()
    if asked.what == "speed":
        speed()
    elif asked.name:
        answers(asked.name)
    else:
        parser.error("answers: a file is needed")


if __name__ == "__main__":
    main()
