"""Tasks from files: a JSON line each, told apart by their fields."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heartloop.env.play import Prompt
from heartloop.errors import EpisodeFailure, InvalidInput, RecordError
from heartloop.rewards.answers import Question
from heartloop.types import Message, Reply

Row = Mapping[str, Any]
_OPTION = re.compile(r"^(?:\([A-Z]\)|-)\s*(.+)$", re.MULTILINE)
_ENDING = "\n\nEnd with a line that reads: A: <your final answer>"
"""Asked of every task, so that the final answer can be told from the way to it."""


def load(path: str | Path) -> list[Question]:
    """The questions of a file.

    Args:
        path: JSON lines of GSM8K, SimpleQA, OlympiadBench, OlymMATH, Instruction Induction or
            BIG-Bench Hard, or of one's own: {"question", "answer" or "answers", "verifier", ...}.

    Raises:
        InvalidInput: the file cannot be read or is empty.
        RecordError: a line is broken, or its id was used before.
    """
    found: dict[str, Question] = {}
    for number, row in _rows(Path(path)):
        question = _question(path, number, row)
        if question.id in found:
            raise RecordError(
                path, number, f"id {question.id!r} was used before: give each its own"
            )
        found[question.id] = question
    if not found:
        raise InvalidInput(f"{path} holds no task: expected JSON lines")
    return list(found.values())


def _rows(path: Path) -> list[tuple[int, Row]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"cannot read {path}: expected UTF-8 text ({error.reason})") from error
    return [(n, _row(path, n, line)) for n, line in enumerate(lines, 1) if line.strip()]


def _row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RecordError(path, number, f"expected JSON: {error}") from error
    if not isinstance(row, dict):
        raise RecordError(path, number, f"expected a JSON object, got {line!r:.60}")
    return row


def _question(path: str | Path, number: int, row: Row) -> Question:
    made = next(make for fits, make in _KINDS if fits <= row.keys())
    try:
        fields = made(row)
        return Question(**{"id": _id(row, fields), **fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RecordError(path, number, f"expected a question: {place}: {first['msg']}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(path, number, f"expected a question with its answer: {error}") from error


def _id(row: Row, fields: Row) -> str:
    given = row.get("id")
    if given is None or given == "":
        return hashlib.sha256(fields["text"].encode()).hexdigest()[:12]
    return str(given)


def _all(given: Any) -> tuple[str, ...]:
    """The accepted answers of a field that holds one or several."""
    return tuple(map(str, given)) if isinstance(given, list) else (str(given),)


def _olympiad(row: Row) -> dict[str, Any]:
    # Several right answers of one problem stand in one string, with commas between them.
    slack = float(row.get("tolerance") or row.get("error") or 0)
    return {
        "text": row["question"], "answers": _all(row["final_answer"]), "verifier": "maths",
        "tolerance": slack,
    }  # fmt: skip


def _induction(row: Row) -> dict[str, Any]:
    text = f"{row['instruction']}\n\nInput: {row['input']}"
    return {"text": text, "answers": _all(row["outputs"]), "verifier": row["metric"]}


def _bbh(row: Row) -> dict[str, Any]:
    _, marked, listed = row["input"].partition("Options:")
    choices = tuple(option.strip() for option in _OPTION.findall(listed)) if marked else ()
    return {
        "text": row["input"], "answers": (row["target"],),
        "verifier": "choice" if choices else "exact", "choices": choices,
    }  # fmt: skip


def _simpleqa(row: Row) -> dict[str, Any]:
    return {"text": row["question"], "answers": (row["answer"],), "verifier": "fact"}


_TYPES = {"numeric": "numeric", "math": "maths"}
_OWN = ("verifier", "choices", "unit", "tolerance")


def _own(row: Row) -> dict[str, Any]:
    """A question with its answer; GSM8K's own files end the solution with "#### 21".

    Many files, SimpleQA's own among them, call the question a problem.
    """
    golds = _all(row["answers"] if "answers" in row else row["answer"])
    given = {key: row[key] for key in _OWN if key in row}
    if golds and all("####" in gold for gold in golds):
        golds = tuple(gold.rsplit("####", 1)[1].strip() for gold in golds)
        given.setdefault("verifier", "numeric")
    if row.get("answer_type") in _TYPES:
        given.setdefault("verifier", _TYPES[row["answer_type"]])
    text = row["question"] if "question" in row else row["problem"]
    return {"text": text, "answers": golds, **given}


_KINDS: tuple[tuple[set[str], Callable[[Row], dict[str, Any]]], ...] = (
    ({"question", "final_answer"}, _olympiad),
    ({"instruction", "input", "outputs", "metric"}, _induction),
    ({"input", "target"}, _bbh),
    ({"question", "answer", "answer_type", "topic"}, _simpleqa),
    (set(), _own),
)
"""The fields that tell a kind of file, the most telling first."""


def prompt(question: Question, seed: int) -> Prompt:
    """The question as a policy gets it; its seed follows from the run's and from the question."""
    key = hashlib.sha256(f"{seed}:{question.id}:{question.text}".encode()).digest()
    message = Message(role="user", content=question.text + _ENDING)
    return Prompt((message,), int.from_bytes(key[:8], "big") >> 1)


@dataclass(frozen=True)
class Recorded:
    """A policy that gives recorded answers: to a question with n drafts in sight, the n-th."""

    name: str
    answers: Mapping[str, Sequence[str]] = field(repr=False)
    """By the text of the question."""
    reveals: bool = False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply | EpisodeFailure]:
        """The recorded answers; a failure where there is none."""
        return [self._one(p) for p in prompts]

    def _one(self, asked: Prompt) -> Reply | EpisodeFailure:
        question = asked.history[0].content.removesuffix(_ENDING)
        known = self.answers.get(question, ())
        drafts = sum(message.role == "assistant" for message in asked.history)
        if drafts >= len(known):
            return EpisodeFailure(f"no recorded answer number {drafts + 1} to {question!r:.60}")
        return Reply(text=known[drafts])


def recorded(path: str | Path, *solvers: str) -> Recorded:
    """The recorded solutions of a file as a policy, one solver after the other.

    Args:
        path: JSON lines with "question" and "attempts", each of "policy" and "text".
        solvers: Which of them, in order; none for all, as the file has them.

    Raises:
        InvalidInput: a question lacks one of the solvers.
    """
    answers: dict[str, list[str]] = {}
    for number, row in _rows(Path(path)):
        try:
            made = {attempt["policy"]: attempt["text"] for attempt in row["attempts"]}
            answers[row["question"]] = [made[s] for s in solvers or made]
        except (KeyError, TypeError) as error:
            raise RecordError(path, number, f"expected attempts of {solvers}: {error}") from error
    return Recorded("+".join(solvers) or "recorded", answers)
