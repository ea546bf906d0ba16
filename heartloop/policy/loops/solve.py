"""Runs a loop over many tasks: several at a time, on disk as they end, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from threading import Lock

from pydantic import ValidationError

from heartloop.errors import InvalidInput, OutputRefused, RecordError
from heartloop.policy.loops.base import Attempt, Trace
from heartloop.policy.loops.judges import Answered
from heartloop.policy.loops.loop import Loop
from heartloop.policy.loops.tasks import prompt
from heartloop.rewards.answers import Check, Question, Verifier
from heartloop.rewards.verifiers import verifier as read_verifier


def solve(
    loop: Loop, questions: Sequence[Question], *, seed: int = 0, oracle: bool = False,
    verifier: Verifier | None = None, at_once: int = 8, out: Path | None = None,
    resume: bool = False, on_trace: Callable[[Trace], None] | None = None,
) -> list[Trace]:  # fmt: skip
    """Run a loop on each question, and report on every attempt.

    Args:
        loop: What to run; each task follows from the question and the seed alone.
        questions: The tasks.
        seed: Of the run.
        oracle: Let the verifier stop the loop too; the traces are then stamped oracle-assisted.
        verifier: Reports; None takes the one each question names.
        at_once: Tasks under way at a time.
        out: Takes each trace as soon as it ends; a path that exists is refused unless resuming.
        resume: Go on with `out`: what it holds of this very run is not done again.
        on_trace: Called with each new trace as soon as it ends, by one thread at a time.

    Returns:
        The traces in the order of the questions.

    Raises:
        OutputRefused: `out` exists or cannot be written.
        RecordError: `out` holds a broken line.
        InvalidInput: `out` holds traces of another run, `at_once` is below 1, or a question is
            not for its verifier.
    """
    if at_once < 1:
        raise InvalidInput(f"at_once must be at least 1, got {at_once!r}")
    for question in questions:  # what cannot be checked is told before anything is paid for
        if isinstance(check := _check(question, verifier), Check):
            check(question, question.answers[0])
    done = _resumed(out, loop, seed, oracle, verifier, questions) if out and resume else {}
    lock, tell = Lock(), on_trace or (lambda trace: None)
    file = _opened(out, resume) if out else None

    def work(question: Question) -> None:
        trace = _solved(loop, question, seed, oracle, verifier)
        with lock:
            done[question.id] = trace
            if file is not None:
                _append(file, trace)
            tell(trace)

    try:
        _at_once(work, [q for q in questions if q.id not in done], at_once)
    finally:
        if file is not None:
            os.close(file)
    return [done[question.id] for question in questions]


def _at_once(work: Callable[[Question], None], todo: Sequence[Question], at_once: int) -> None:
    """Do all of it on threads; the first error ends it, with what has begun finished."""
    with ThreadPoolExecutor(at_once, thread_name_prefix="heartloop-solve") as threads:
        under_way: list[Future[None]] = [threads.submit(work, question) for question in todo]
        try:
            finished, _ = wait(under_way, return_when=FIRST_EXCEPTION)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
    for future in finished:
        future.result()


def _solved(
    loop: Loop, question: Question, seed: int, oracle: bool, verifier: Verifier | None
) -> Trace:
    check = _check(question, verifier)
    if oracle:
        loop = _assisted(loop, question, check)
    return reported(loop.run(prompt(question, seed), question.id), question, check)


def _check(question: Question, verifier: Verifier | None) -> Verifier:
    return verifier or read_verifier(question.verifier)


def _assisted(loop: Loop, question: Question, verifier: Verifier) -> Loop:
    return replace(loop, judge=Answered(question, verifier), selector="best_reward")


def reported(trace: Trace, question: Question, verifier: Verifier) -> Trace:
    """The trace with a report on its reply and on each attempt; the policy never learns of it."""

    def report(attempt: Attempt) -> Attempt:
        if attempt.reply is None:
            return attempt
        score = verifier(question, attempt.reply.text)
        return attempt.model_copy(update={"report": score})

    attempts = tuple(map(report, trace.attempts))
    if trace.chosen is not None:
        final = attempts[trace.chosen].report
    else:
        final = verifier(question, trace.reply.text) if trace.reply else None
    update = {"attempts": attempts, "report": final, "verifier": verifier.id}
    return trace.model_copy(update=update)


def read(path: str | Path) -> list[Trace]:
    """The traces of a file.

    Raises:
        InvalidInput: the file cannot be read.
        RecordError: a line is broken.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    traces = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            traces.append(Trace.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise RecordError(path, number, f"expected a trace: {first['msg']}") from error
    return traces


def _opened(path: Path, resume: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if resume else os.O_EXCL)
    try:
        return os.open(path, flags, 0o644)
    except FileExistsError as error:
        raise OutputRefused(f"{path} exists already: choose a new name, or resume") from error
    except OSError as error:
        raise OutputRefused(f"cannot write {path}: {error.strerror}") from error


def _append(file: int, trace: Trace) -> None:
    """One line, on the disk when this returns."""
    line = (trace.model_dump_json() + "\n").encode()
    while line:
        line = line[os.write(file, line) :]
    os.fsync(file)


def _mend(path: Path) -> None:
    """Take off a last line that was cut short: its task is done again."""
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    except OSError as error:
        raise OutputRefused(f"cannot go on with {path}: {error.strerror}") from error


def _resumed(
    path: Path, loop: Loop, seed: int, oracle: bool, verifier: Verifier | None,
    questions: Sequence[Question],
) -> dict[str, Trace]:  # fmt: skip
    """What a file holds already."""
    if not path.exists():
        return {}
    _mend(path)
    own = {q.id: (prompt(q, seed).seed, _check(q, verifier).id) for q in questions}
    if oracle and questions:
        loop = _assisted(loop, questions[0], _check(questions[0], verifier))
    helped = loop.judge is not None and loop.judge.kind == "oracle"
    # An oracle is named by its question; whom it asks is compared by the verifier.
    steers = loop.judge.name if loop.judge and not helped else ""
    found = {trace.task: trace for trace in read(path)}
    for trace in found.values():
        steered = "" if trace.oracle_assisted else trace.judge
        kind = (trace.loop, trace.policy, trace.settings, trace.oracle_assisted, steered,
                (trace.seed, trace.verifier))  # fmt: skip
        wanted = (loop.label, loop.policy.name, loop.settings, helped, steers, own.get(trace.task))
        if kind != wanted:
            raise InvalidInput(
                f"{path} holds another run: task {trace.task!r} has {kind!r}, "
                f"expected {wanted!r}; choose a new file"
            )
    return found
