"""A model that says what it is told to: for tests and examples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from heartloop.errors import EndpointFailure, HeartloopError
from heartloop.llm.base import Completion, Decoding
from heartloop.llm.ledger import LEDGER, Usage
from heartloop.types import Message

Answer = Callable[[Sequence[Message], Decoding], str]
"""Makes an answer out of the dialogue."""


class ScriptedModel:
    """Gives answers from a list, in order, or from a function of the dialogue."""

    spec = "scripted"

    def __init__(self, answers: Sequence[str] | Answer, latency: float = 0.0) -> None:
        """Answer with `answers`, each after `latency` seconds."""
        self._latency = latency
        self._answer = answers if callable(answers) else _in_order(answers)

    async def __call__(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> Completion:
        """The next answer.

        Raises:
            EndpointFailure: the list is used up.
        """
        began = time.perf_counter()
        await asyncio.sleep(self._latency)
        try:
            text = self._answer(messages, decoding)
        except HeartloopError:
            LEDGER.book(self.spec, purpose, Usage(calls=1, failures=1))
            raise
        completion = Completion(text=text, model=self.spec, seconds=time.perf_counter() - began)
        LEDGER.book(self.spec, purpose, Usage.of(completion))
        return completion


def _in_order(answers: Sequence[str]) -> Answer:
    # next() on a list's iterator is atomic, so threads need no lock.
    rest = iter(list(answers))

    def answer(messages: Sequence[Message], decoding: Decoding) -> str:
        for text in rest:
            return text
        raise EndpointFailure(
            f"the script of {len(answers)} answers is used up: give more, or a function"
        )

    return answer
