"""Several loops on the same tasks, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from heartloop.env.play import Policy
from heartloop.errors import OutputRefused, unknown
from heartloop.policy.loops.base import Budget
from heartloop.policy.loops.cues import Bank
from heartloop.policy.loops.presets import make_loop
from heartloop.policy.loops.solve import read, solve
from heartloop.policy.loops.summary import Summary, plot, summary
from heartloop.rewards.answers import Question, Verifier


def solve_arms(
    loops: Sequence[str], policy: Policy, questions: Sequence[Question], *,
    budget: Budget | None = None, cues: Bank | None = None, verifier: Verifier | None = None,
    control: str | None = None, oracle: bool = False, at_once: int = 8, seed: int = 0,
    out: Path | None = None, resume: bool = False,
) -> list[Summary]:  # fmt: skip
    """Run each loop on each question at the same budget, and sum up each.

    Args:
        loops: Names of loops, as `make_loop` takes them; doubles are run once.
        policy: Who answers.
        questions: The tasks.
        budget: Limits of each run; by default five samples.
        cues: What the loops say; by default heartloop's own.
        verifier: Checks every answer; by default as each question says.
        control: The loop that the others are compared to; one of `loops`.
        oracle: Let the verifier stop the loops; the rows then say so.
        at_once: Tasks under way at a time.
        seed: Of the run.
        out: Folder that takes the traces of each loop as a file of its name.
        resume: Go on with the files in `out`.

    Raises:
        UnknownName: no such loop or stimulus, or the control is not among them.
        InvalidInput: tokens are limited, and the policy does not report them.
        OutputRefused: `out` cannot be written, or holds a file of that name.
    """
    if control is not None and control not in loops:
        raise unknown("arm", control, loops)
    arms = {name: make_loop(name, policy, budget=budget, cues=cues) for name in loops}
    if out is not None:
        _make(out)
    traces = {
        name: solve(
            loop,
            questions,
            seed=seed,
            oracle=oracle,
            verifier=verifier,
            at_once=at_once,
            resume=resume,
            out=_file(out, name) if out else None,
        )
        for name, loop in arms.items()
    }
    beside = traces[control] if control else ()
    return [
        summary(found, questions, control=() if name == control else beside, arm=name, seed=seed)
        for name, found in traces.items()
    ]


def draw(loops: Sequence[str], out: Path) -> Path:
    """Draw accuracy over attempts from the files that `solve_arms` left; the picture's path.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: no attempt could be scored.
    """
    path = out / "accuracy.svg"
    plot({name: read(_file(out, name)) for name in loops}, path)
    return path


def _file(out: Path, name: str) -> Path:
    return out / f"{name.replace(':', '-')}.jsonl"  # not every file system takes a colon


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"cannot write {folder}: {error.strerror}") from error
