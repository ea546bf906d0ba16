"""The SAGE user: a model appraises each reply, then speaks (arXiv 2505.02847, 2507.03112).

Its numbers come from a model, its arithmetic does not: a reaction is rebuilt by `reread` from the
raw answers in its record, without the model, and that is also how it is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from heartloop.errors import CallFailure, InvalidInput, unknown
from heartloop.llm.base import ChatModel, Completion, Decoding, wait
from heartloop.llm.ledger import bare
from heartloop.simusers import answers, dynamics, sage_prompts
from heartloop.simusers.answers import Appraised, Form, Spoken
from heartloop.simusers.base import UserState
from heartloop.simusers.dynamics import Preset
from heartloop.simusers.sage_prompts import LANGUAGES, Call, Moment, Style
from heartloop.simusers.sage_record import (
    FORMS,
    answered,
    feeling,
    judged,
    reader,
    reread,
    spoken,
)
from heartloop.types import Message, Reaction, Scenario

MAX_TOKENS = 2048
MOST_SAMPLES = 64
"""Of one turn; they are asked for at the same time."""
WARMER = 0.7
"""Lowest temperature of a re-ask: at 0 many servers would only repeat the unreadable answer."""


@dataclass(frozen=True, slots=True)
class _State:
    """Where a dialogue stands; what was said is in the history."""

    scenario: Scenario
    seed: int
    emotion: float


@dataclass(frozen=True, slots=True)
class _Task:
    """One answer that is needed."""

    call: Call
    moment: Moment
    seed: int
    sample: int = 0
    attempts: int = 1

    @property
    def turn(self) -> int:
        """Number of the reply that is reacted to, 0 for the opener."""
        return sum(m.role == "assistant" for m in self.moment.history)

    def draw(self, attempt: int) -> int:
        """Seed of an attempt: another for each dialogue, turn, purpose, sample and re-ask."""
        key = [self.seed, self.moment.scenario.id, self.turn, self.call, self.sample, attempt]
        return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:4], "big") >> 1


class SageUser:
    """A simulated user played by a chat model.

    A scored turn costs two calls, or one in style "single"; an opener that the scenario lacks
    costs one more.

    Args:
        model: Plays the person.
        preset: The rules of the dialogue.
        style: Wording of the prompts: "evaluator" as in SAGE, "trainer" as in the released RLVER
            trainer (the person gives nothing away), "single" for appraisal and reply in one call.
        language: Of prompts and answers; the scenario's where it is None.
        samples: Appraisals that are averaged, 64 at most; useful at a temperature above 0.
        expected: Read the mean change from the probabilities of the number's tokens.
        temperature: Of every call.
        retries: Re-asks of an answer that cannot be read, before the turn is given up.
    """

    def __init__(
        self,
        model: ChatModel,
        preset: Preset,
        style: Style = "evaluator",
        language: str | None = None,
        samples: int = 1,
        expected: bool = False,
        temperature: float = 0.0,
        retries: int = 2,
    ) -> None:
        """Play by `preset` with `model`."""
        _check(style, language)
        _check_numbers(samples, temperature, retries)
        self.preset = preset
        self._model, self._style, self._language = model, style, language
        self._samples, self._expected, self._retries = samples, expected, retries
        self._decoding = Decoding(temperature=temperature, max_tokens=MAX_TOKENS)
        self._reader = reader(style)
        self.id = f"{self._reader}{self._settings()}+{bare(model.spec)}"
        self._state: _State | None = None

    def _settings(self) -> str:
        """What differs from the usual and moves scores, e.g. ",samples=3,temperature=0.7"."""
        usual = {"language": None, "samples": 1, "expected": False, "temperature": 0, "retries": 2}
        here = {
            "language": self._language,
            "samples": self._samples,
            "expected": self._expected,
            "temperature": self._decoding.temperature,
            "retries": self._retries,
        }
        return "".join(f",{name}={here[name]}" for name in usual if here[name] != usual[name])

    def open(self, scenario: Scenario, seed: int) -> Reaction:
        """Begin a dialogue with the scenario's opener, or have one made.

        Raises:
            InvalidInput: there are no prompts in the language of the scenario.
            CallFailure: no readable opener came.
        """
        start = self.preset.start
        moment = self._moment(scenario, start)
        calls = []
        if not scenario.opener.strip():
            task = _Task("open", moment, seed, attempts=1 + self._retries)
            calls = wait(self._ask(task))
        reaction = reread(self._record(calls), start, self.preset, scenario)
        self._state = _State(scenario, seed, start)
        return reaction

    def react(self, history: Sequence[Message]) -> Reaction:
        """Appraise the last message, move, and say something.

        Raises:
            InvalidInput: no dialogue is open, or the history does not end with a reply.
            CallFailure: no readable answer came; the dialogue cannot be scored.
            EndpointFailure: the model cannot be used any more.
        """
        state = self._opened()
        moment = self._moment(state.scenario, state.emotion, history)
        calls = wait(self._judgements(moment, state.seed, self._samples, 1 + self._retries))
        change = judged(calls, self.preset)[1]
        after = dynamics.step(state.emotion, change, self.preset)
        calls += self._words(replace(moment, emotion=after, feeling=feeling(calls)), calls)
        reaction = reread(self._record(calls), state.emotion, self.preset, state.scenario)
        self._state = replace(state, emotion=reaction.emotion)
        return reaction

    def judge(
        self, scenario: Scenario, history: Sequence[Message], emotion: float, seed: int
    ) -> float:
        """The change that the last reply would bring at an emotion, as the dialogue would judge it.

        Raises:
            CallFailure: no readable answer came.
        """
        moment = self._moment(scenario, emotion, history)
        calls = wait(self._judgements(moment, seed, self._samples, 1 + self._retries))
        return judged(calls, self.preset)[1]

    def snapshot(self) -> UserState:
        """The state between two turns, JSON-ready."""
        state = self._opened()
        scenario = state.scenario.model_dump(mode="json")
        return {"scenario": scenario, "seed": state.seed, "emotion": state.emotion}

    def restore(self, state: UserState) -> None:
        """Continue from a snapshot."""
        scenario = Scenario.model_validate(state["scenario"])
        self._state = _State(scenario, state["seed"], state["emotion"])

    def _opened(self) -> _State:
        if self._state is None:
            raise InvalidInput("no dialogue is open: call open(scenario, seed) first")
        return self._state

    def _moment(
        self, scenario: Scenario, emotion: float, history: Sequence[Message] = ()
    ) -> Moment:
        language = self._language or scenario.language
        if language not in LANGUAGES:
            raise InvalidInput(
                f"SAGE users speak {LANGUAGES}, scenario {scenario.id!r} is in {language!r}: "
                "choose a language with language=..."
            )
        said = tuple(m for m in history if m.role != "system")
        if history and not (said and said[-1].role == "assistant"):
            raise InvalidInput(f"expected a history that ends with a reply, got {history[-1]!r}")
        return Moment(scenario, emotion, language, said)

    async def _judgements(
        self, moment: Moment, seed: int, samples: int, attempts: int
    ) -> list[dict[str, Any]]:
        """The calls of all appraisals, asked for at the same time."""
        if not moment.history:
            raise InvalidInput("expected a history that ends with a reply, got an empty one")
        call: Call = "turn" if self._style == "single" else "appraise"
        tasks = (_Task(call, moment, seed, n, attempts) for n in range(samples))
        done = await asyncio.gather(*(self._ask(t) for t in tasks), return_exceptions=True)
        found: list[dict[str, Any]] = []
        for result in done:
            if isinstance(result, BaseException):
                raise result
            found += result
        return found

    def _words(self, moment: Moment, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The calls for what the person says; none where the appraisal brought it along."""
        seed = self._opened().seed
        more: list[dict[str, Any]] = []
        if self._style != "single":
            more = wait(self._ask(_Task("reply", moment, seed, attempts=1 + self._retries)))
        text = spoken(more or calls).reply
        if any(m.role == "user" and m.content == text for m in moment.history):
            more += self._otherwise(_Task("reply", moment, seed, sample=1), more)
        return more

    def _otherwise(self, task: _Task, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One re-ask in place of words that were said before; they stay if it brings nothing."""
        try:
            again, failure = wait(self._attempts(task, first=1))
        except CallFailure:
            return []
        for call in () if failure else before:
            call["used"] = False
        return again

    async def _ask(self, task: _Task) -> list[dict[str, Any]]:
        """Calls until one can be read; that one is the used one, and the last."""
        calls, failure = await self._attempts(task)
        if failure:
            raise CallFailure(
                f"{self._model.spec} gave no readable {task.call!r} answer in {task.attempts} "
                f"attempts; the last: {failure}"
            )
        return calls

    async def _attempts(
        self, task: _Task, first: int = 0
    ) -> tuple[list[dict[str, Any]], CallFailure | None]:
        """The calls that were made, and why the last cannot be read either."""
        failure: CallFailure | None = None
        form = FORMS[task.call]
        sent = sage_prompts.messages(task.call, self._style, task.moment)
        calls: list[dict[str, Any]] = []
        for attempt in range(first, first + task.attempts):
            decoding = self._decoded(form, task.draw(attempt), attempt)
            answer = await self._model(sent, decoding, task.call)
            call = _call(task, decoding, answer) | {"prompt_sha256": sage_prompts.digest(sent)}
            calls.append(call)
            try:
                self._keep_tokens(call, answered(call), answer)
            except CallFailure as error:
                call["used"], failure = False, error
            else:
                return calls, None
        return calls, failure

    def _decoded(self, form: Form, seed: int, attempt: int) -> Decoding:
        usual = self._decoding
        return usual.model_copy(
            update={
                "seed": seed,
                "temperature": max(usual.temperature, WARMER) if attempt else usual.temperature,
                "top_logprobs": 20 if self._expected and form != "reply" else 0,
                "form": form,
                "json_schema": answers.SCHEMAS[form],
            }
        )

    def _keep_tokens(self, call: dict[str, Any], read: Appraised | Spoken, got: Completion) -> None:
        """Note the tokens of the number, where the mean over them is wanted."""
        if self._expected and isinstance(read, Appraised):
            tokens = answers.number_tokens(got.logprobs, read.change)
            call["logprobs"] = [token.model_dump() for token in tokens]
            if not answers.spell(tokens, read.change):
                raise CallFailure(
                    f"the tokens of the answer do not spell the change {read.change:g}, "
                    f"got {answers.excerpt(got.text)!r}"
                )

    def _record(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "style": self._style,
            "samples": self._samples,
            "expected": self._expected,
            "calls": calls,
        }


def _check(style: str, language: str | None) -> None:
    if style not in get_args(Style):
        raise unknown("style of SAGE user", style, get_args(Style))
    if language is not None and language not in LANGUAGES:
        raise unknown("prompt language", language, LANGUAGES)


def _check_numbers(samples: int, temperature: float, retries: int) -> None:
    if not 1 <= samples <= MOST_SAMPLES:
        raise InvalidInput(
            f"expected samples of 1 or more, {MOST_SAMPLES} at most, got {samples!r}"
        )
    if not 0 <= temperature < math.inf:
        raise InvalidInput(f"expected a finite temperature of 0 or more, got {temperature!r}")
    if retries < 0:
        raise InvalidInput(f"expected retries of 0 or more, got {retries!r}")


def _call(task: _Task, decoding: Decoding, answer: Completion) -> dict[str, Any]:
    """The entry of one call in the record."""
    return {
        "purpose": task.call,
        "sample": task.sample,
        "model": answer.model,
        "temperature": decoding.temperature,
        "seed": decoding.seed,
        "raw": answer.text,
        "structured": answer.structured,
        "finish": answer.finish,
        "request_id": answer.request_id,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "used": True,
    }
