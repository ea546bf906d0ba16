"""Calls that arrive together are answered together, by one thread beside the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from heartloop.errors import CallFailure, EndpointFailure, HeartloopError
from heartloop.llm.base import Completion, Decoding, renew_after_fork
from heartloop.llm.ledger import LEDGER, Usage
from heartloop.types import Message

WINDOW = 0.01
"""Seconds that the first call of a batch waits for others."""


@dataclass(frozen=True, slots=True)
class Question:
    """One call: the tokens of its dialogue and how to go on from them."""

    ids: tuple[int, ...]
    decoding: Decoding
    answer: Future[Completion] = field(default_factory=Future)


class Batcher:
    """Gathers questions for a model that answers many at a time."""

    def __init__(
        self, name: str, work: Callable[[Sequence[Question]], Iterable[Completion]], most: int
    ) -> None:
        """Answer with `work`, at most `most` questions at a time; `name` names it in errors."""
        self._name, self._work, self._most = name, work, most
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begin without a thread and without questions."""
        self._queue: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    async def ask(self, ids: Sequence[int], decoding: Decoding, purpose: str) -> Completion:
        """The answer to one question, booked.

        Raises:
            CallFailure: the model refused this question.
            EndpointFailure: the model broke down.
        """
        self._start()
        question, began = Question(tuple(ids), decoding), time.perf_counter()
        self._queue.put(question)
        try:
            completion = await asyncio.wrap_future(question.answer)
        except HeartloopError:
            seconds = time.perf_counter() - began
            LEDGER.book(self._name, purpose, Usage(calls=1, failures=1, seconds=seconds))
            raise
        completion = completion.model_copy(update={"seconds": time.perf_counter() - began})
        LEDGER.book(self._name, purpose, Usage.of(completion))
        return completion

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            batch = [q for q in self._gather() if q.answer.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _gather(self) -> list[Question]:
        batch = [self._queue.get()]
        closing = time.monotonic() + WINDOW
        while len(batch) < self._most:
            try:
                batch.append(self._queue.get(timeout=max(0.0, closing - time.monotonic())))
            except queue.Empty:
                break
        return batch

    def _answer(self, batch: Sequence[Question]) -> None:
        """Answer a batch; where it is refused, each by itself, so that one cannot spoil others."""
        try:
            for question, completion in zip(batch, self._work(batch), strict=True):
                question.answer.set_result(completion)
        except ValueError as error:
            open_ones = [q for q in batch if not q.answer.done()]
            if len(batch) > 1:
                for question in open_ones:
                    self._answer([question])
            else:
                _fail(open_ones, CallFailure(f"{self._name} refused this dialogue: {error}"))
        except Exception as error:
            text = f"{self._name} broke down: {type(error).__name__}: {error}"
            _fail([q for q in batch if not q.answer.done()], EndpointFailure(text))


class Batched:
    """What the chat models in this process share: calls under way at once become one batch."""

    spec: str
    _tokenizer: Any
    _context: int | None
    """Most tokens of a dialogue and its answer."""
    _batcher: Batcher

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r})"

    async def __call__(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> Completion:
        """One answer; see `ChatModel`."""
        ids = dialogue_ids(self._tokenizer, messages)
        room(ids, decoding, self._context)
        return await self._batcher.ask(ids, decoding, purpose)


def _fail(questions: Iterable[Question], error: HeartloopError) -> None:
    for question in questions:
        question.answer.set_exception(error)


def dialogue_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The dialogue in the model's chat format, up to the header of its answer.

    Control tokens within a message are broken up, so that nobody can forge a message; a model
    that can think aloud is asked not to.

    Raises:
        CallFailure: the chat template refuses the dialogue.
    """
    marks = control_marks(tokenizer)
    rows = [{"role": m.role, "content": plain(m.content, marks)} for m in messages]
    try:
        text = tokenizer.apply_chat_template(
            rows, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except Exception as error:  # templates raise what they like
        raise CallFailure(f"the chat template refused the dialogue: {error}") from error
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def room(ids: Sequence[int], decoding: Decoding, context: int | None) -> int:
    """Tokens an answer may have within the model's context.

    Raises:
        CallFailure: the dialogue fills the context.
    """
    if context is None:
        return decoding.max_tokens
    if len(ids) >= context:
        raise CallFailure(f"the dialogue has {len(ids)} tokens, the model takes {context}")
    return min(decoding.max_tokens, context - len(ids))


def control_marks(tokenizer: Any) -> tuple[str, ...]:
    """How a tokenizer spells its control tokens, those of the chat format included.

    What it calls its special tokens need not be all: Llama's names neither of a header's marks.
    The marks of a think block are text: a model says them itself.
    """
    added = tokenizer.added_tokens_decoder.values()
    marks = [*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)]
    return tuple(dict.fromkeys(m for m in marks if m not in ("<think>", "</think>")))


def plain(text: str, marks: Sequence[str]) -> str:
    """The text with control tokens broken up, so that nobody can forge them."""
    for mark in marks:
        text = text.replace(mark, f"{mark[:1]} {mark[1:]}")
    return text
