"""Dialogues that have been held: their reactions replayed, their model answers given again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from heartloop.errors import CallFailure, EpisodeFailure, InvalidInput
from heartloop.llm.base import Completion, Decoding, TokenLogprob
from heartloop.simusers import dynamics
from heartloop.simusers.base import UserState
from heartloop.types import Episode, Message, Reaction, Scenario


class RecordedUser:
    """A simulated user that goes through one recorded episode again, word for word."""

    def __init__(self, episode: Episode) -> None:
        """Replay `episode`."""
        self.id, self.preset = episode.user, dynamics.preset(episode.preset)
        self._episode, self._turn = episode, 0

    def open(self, scenario: Scenario, seed: int) -> Reaction:
        """The recorded opening.

        Raises:
            InvalidInput: the episode is of another scenario or seed.
        """
        asked, held = (scenario.id, seed), (self._episode.scenario.id, self._episode.seed)
        if asked != held:
            raise InvalidInput(f"the recorded episode is of {held}, asked for {asked}")
        self._turn = 0
        return self._episode.opening

    def react(self, history: Sequence[Message]) -> Reaction:
        """The recorded reaction.

        Raises:
            EpisodeFailure: another reply was recorded, or none, or it was not scored then.
        """
        if self._turn >= len(self._episode.turns):
            raise EpisodeFailure(f"the recorded episode ends after {self._turn} turns")
        turn = self._episode.turns[self._turn]
        if turn.reply.text != history[-1].content:
            raise EpisodeFailure(
                f"turn {self._turn} was recorded with the reply {turn.reply.text!r:.60}, "
                f"got {history[-1].content!r:.60}"
            )
        if turn.reaction is None:
            raise EpisodeFailure(f"turn {self._turn} was recorded without a reaction")
        self._turn += 1
        return turn.reaction

    def snapshot(self) -> UserState:
        """How far the replay is."""
        return {"turn": self._turn}

    def restore(self, state: UserState) -> None:
        """Go on from there."""
        self._turn = state["turn"]


class _Call(BaseModel):
    """What of a recorded call makes its answer."""

    purpose: str
    seed: int
    raw: str
    model: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    request_id: str
    structured: bool
    logprobs: tuple[TokenLogprob, ...] | None = None

    def answer(self) -> Completion:
        """The answer as the model gave it, of its tokens those that were kept."""
        return Completion(
            text=self.raw,
            model=self.model,
            finish=self.finish,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            request_id=self.request_id,
            logprobs=() if self.logprobs is None else (_LABEL, *self.logprobs),
            structured=self.structured,
        )


_CALLS = TypeAdapter(tuple[_Call, ...])
_LABEL = TokenLogprob(token="Change:", logprob=0.0, top={"Change:": 0.0})
"""Stands before the recorded tokens, which are those of the number alone, or none."""


class RecordedAnswers:
    """A chat model that gives the raw answers in an episode's record again, by their seeds."""

    def __init__(self, episode: Episode, spec: str) -> None:
        """Answer as the model `spec` did in `episode`.

        Raises:
            InvalidInput: a call in its record lacks a part, or is none.
        """
        self.spec = spec
        reactions = [episode.opening, *(t.reaction for t in episode.turns if t.reaction)]
        self._answers: dict[tuple[str, int | None], Completion] = {}
        for reaction in reactions:
            self._answers |= _answers(reaction.record)

    async def __call__(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> Completion:
        """The recorded answer.

        Raises:
            CallFailure: none was recorded with that seed.
        """
        answer = self._answers.get((purpose, decoding.seed))
        if answer is None:
            raise CallFailure(f"the record holds no {purpose!r} answer with seed {decoding.seed!r}")
        return answer


def _answers(record: dict[str, Any]) -> dict[tuple[str, int | None], Completion]:
    """The answers that a reaction's record holds, by what asks for them."""
    try:
        calls = _CALLS.validate_python(record.get("calls", ()))
        return {(call.purpose, call.seed): call.answer() for call in calls}
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("calls", *first["loc"])))
        raise InvalidInput(
            f"expected the calls of a SAGE user, {where}: {first['msg']}, got "
            f"{str(first['input'])[:80]!r}: repair the record, or leave its episode out"
        ) from None
