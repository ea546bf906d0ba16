"""Factual answers graded by a model, its verdict read whole or not at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from heartloop.errors import CallFailure
from heartloop.llm import ChatModel, Decoding, complete
from heartloop.llm.ledger import bare
from heartloop.rewards.answers import Grade, Question, graded, plain
from heartloop.types import Message, Score

_LETTERS = {"a": Grade.CORRECT, "b": Grade.INCORRECT, "c": Grade.NOT_ATTEMPTED}


def read_grade(reply: str) -> Grade | None:
    """The grade a judge gave: the whole of its last line, a letter or a word, and nothing else.

    Searching for a letter or a word finds the A of "NOT_ATTEMPTED" and the "correct" of
    "incorrect"; a reply that is no grade stays ungraded.
    """
    lines = reply.strip().splitlines() or [""]
    said = re.sub(r"^grade\s*[:=]\s*", "", plain(lines[-1])).strip("()[]*. ")
    said = said.replace(" ", "_").replace("-", "_")
    return _LETTERS.get(said) or next((g for g in Grade if g.value == said), None)


_JUDGE = """Grade one answer to a question of fact against the answer known to be right.

Question: {question}
Right answer: {gold}
Answer to grade: {answer}

correct: it states the right answer and nothing that contradicts it.
incorrect: it states something else, however carefully.
not_attempted: it does not state the right answer and contradicts nothing, as when it says that \
it does not know.

Reply with one word: correct, incorrect or not_attempted."""


@dataclass(frozen=True)
class FactJudge:
    """Factual answers graded by a model; a verdict that cannot be read is no score."""

    model: ChatModel
    wrong: float = 0.0
    """What an incorrect answer scores; -1 makes guessing costly."""
    version: ClassVar[str] = "fact-judge/1.1"
    """Changes with the question put to the model and with how its verdict is read."""

    @property
    def id(self) -> str:
        """The judge with the version of its question, what it takes off, and its model."""
        return f"{self.version}:{self.wrong:g}+{bare(self.model.spec)}"

    def __call__(self, question: Question, text: str) -> Score:
        """The grade the model gives; None where the call failed or its words are no grade."""
        gold = " or ".join(question.answers)
        filled = _JUDGE.format(question=question.text, gold=gold, answer=text)
        try:
            said = complete(
                self.model, [Message(role="user", content=filled)], Decoding(), "judge"
            ).text
        except CallFailure as failure:
            return Score(value=None, why=f"the judge did not answer: {failure}")
        grade = read_grade(said)
        if grade is None:
            return Score(value=None, why=f"expected a grade, got {said!r:.80}")
        return graded(grade, self.wrong)
