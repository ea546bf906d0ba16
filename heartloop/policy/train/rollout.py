"""Rollouts: dialogues played token by token, many at a time, with all that training needs.

A dialogue's tokens are never made twice: each turn appends the sampled ids and the encoded user's
message to what is there, so that the policy is trained on exactly what it saw and said. A think
block thus stays in the policy's own context until the dialogue ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from heartloop.env.play import Outcome, Task, Transcript, World, prompt_seed
from heartloop.errors import InvalidInput
from heartloop.policy.decode import Talk
from heartloop.rewards import Reward
from heartloop.rewards.emotion import per_turn
from heartloop.types import Episode, Message, Reply


class Speaker(Protocol):
    """A language model with its chat format; `heartloop.policy.model.LanguageModel` is one."""

    model: Any
    tokenizer: Any
    end_ids: tuple[int, ...]
    """Ids that finish a reply; the first is added where a reply was cut."""

    def start(self, history: Sequence[Message]) -> list[int]:
        """Ids of a dialogue up to the header of the next reply."""
        ...

    def user_turn(self, text: str) -> list[int]:
        """Ids that follow a finished reply, up to the header of the next."""
        ...

    def reply(self, ids: Sequence[int]) -> Reply:
        """The reply that sampled ids spell."""
        ...


class Talking(Protocol):
    """Dialogues under way; `heartloop.policy.decode.Talk` samples with the speaker's own model."""

    @property
    def logprobs(self) -> Mapping[int, Sequence[float]]:
        """Of the last replies' ids as they were drawn; empty where the model says so itself."""
        ...

    def reply(
        self, added: Mapping[int, Sequence[int]], seeds: Mapping[int, int]
    ) -> dict[int, list[int]]:
        """Append ids to dialogues and sample a reply to each, by dialogue number."""
        ...


@dataclass(frozen=True, slots=True)
class Rollout:
    """A played dialogue as tokens."""

    prompt_ids: tuple[int, ...]
    """Everything up to the header of the first reply."""
    completion_ids: tuple[int, ...]
    """Everything after, the user's messages included."""
    mask: tuple[int, ...]
    """1 for each id that the policy sampled, 0 for the others of `completion_ids`."""
    turn_ends: tuple[int, ...]
    """Where in `completion_ids` the last sampled id of each turn stands."""
    turn_rewards: tuple[float, ...]
    """Change of emotion over 100, by turn."""
    emotions: tuple[float, ...]
    """Emotion at the opening and after each scored turn."""
    episode: Episode
    logprobs: tuple[float, ...] = ()
    """Of each id of `completion_ids`, as another sampler than the policy drew it; 0 where `mask`
    is. Empty where the policy drew them."""

    @property
    def reward(self) -> float | None:
        """The episode's score; None where there is none, which masks the rollout."""
        return self.episode.score.value if self.episode.score else None

    @property
    def sampled(self) -> int:
        """Number of ids that the policy sampled."""
        return sum(self.mask)


@dataclass(slots=True)
class Spent:
    """Seconds that went where."""

    generation: float = 0.0
    world: float = 0.0
    total: float = 0.0


@dataclass(slots=True)
class _Strand:
    """One dialogue while it is played."""

    script: Transcript
    prompt: list[int]
    completion: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    news: list[int] = field(default_factory=list)
    """Ids that the policy has not read yet."""

    def goes_on(self, turns: int | None) -> bool:
        """Whether it is the policy's turn, of at most so many."""
        return self.script.stop is None and (turns is None or len(self.script.turns) < turns)

    def leave(self) -> None:
        """Take away what the policy did not sample after its last reply."""
        end = self.ends[-1] + 1 if self.ends else 0
        del self.completion[end:], self.mask[end:], self.logprobs[end:]

    def say(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Append sampled ids."""
        self.logprobs += [0.0] * (len(self.completion) - len(self.logprobs)) if logprobs else []
        self.logprobs += logprobs
        self.completion += ids
        self.mask += [1] * len(ids)
        self.ends.append(len(self.completion) - 1)

    def hear(self, ids: Sequence[int]) -> None:
        """Append ids that the policy did not sample."""
        self.completion += ids
        self.mask += [0] * len(ids)
        self.news = list(ids)


class Driver:
    """Plays batches of dialogues between a language model and a world."""

    def __init__(
        self, world: World, speaker: Speaker, reward: Reward, limit: int, temperature: float,
        talk: Callable[[], Talking] | None = None,
    ) -> None:  # fmt: skip
        """Let `speaker` sample replies of at most `limit` tokens at a `temperature`.

        Where `talk` is given, what it begins samples for the speaker.
        """
        self.world, self.speaker, self.reward = world, speaker, reward
        self._talk = talk or (lambda: Talk(speaker.model, speaker.end_ids, limit, temperature))
        self.spent = Spent()
        """Of the last batch."""

    def play(self, tasks: Sequence[Task], policy: str, turns: int | None = None) -> list[Rollout]:
        """Play a batch in lockstep; a dialogue that has ended drops out of it.

        Args:
            tasks: What to play. Tasks that differ in `sample` only form a group.
            policy: Name of the policy as it is now, for the episodes.
            turns: Leave off after so many, in the middle of the dialogues; None plays to their end.
        """
        began, self.spent = time.perf_counter(), Spent()
        strands = self._open(tasks)
        talk = self._talk()
        while under_way := {n: s for n, s in strands.items() if s.goes_on(turns)}:
            self._turn(talk, under_way)
        for strand in strands.values():
            strand.leave()
        rollouts = [self._rollout(strands[n], policy) for n in range(len(tasks))]
        self.spent.total = time.perf_counter() - began
        return rollouts

    def _open(self, tasks: Sequence[Task]) -> dict[int, _Strand]:
        numbered = dict(enumerate(tasks))
        began = time.perf_counter()
        openings = self.world.open(numbered)
        self.spent.world += time.perf_counter() - began
        strands = {}
        for number, task in numbered.items():
            script = Transcript.begin(task, openings[number], self.world.preset)
            prompt = self.speaker.start(script.history)
            strands[number] = _Strand(script, prompt, news=prompt)
        return strands

    def _turn(self, talk: Talking, strands: Mapping[int, _Strand]) -> None:
        """One reply and one reaction in each dialogue."""
        began = time.perf_counter()
        sampled = talk.reply({n: s.news for n, s in strands.items()}, _seeds(strands))
        self.spent.generation += time.perf_counter() - began
        replies = {n: self.speaker.reply(ids) for n, ids in sampled.items()}
        for number, outcome in self._hear(replies).items():
            strand = strands[number]
            strand.say(sampled[number], talk.logprobs.get(number, ()))
            strand.script.add(replies[number], outcome)
            if outcome.stop is None and outcome.reaction:
                strand.hear(self._between(sampled[number], outcome.reaction.text))

    def _hear(self, replies: Mapping[int, Reply]) -> dict[int, Outcome]:
        """What the users made of the replies, in the order of the dialogues.

        Waits for all, so that the next batch does not depend on who was quicker.
        """
        began = time.perf_counter()
        heard = self.world.step(replies)
        while len(heard) < len(replies):
            late = self.world.step({})
            if not late:
                raise InvalidInput("the world must answer every reply, it stopped before")
            heard |= late
        self.spent.world += time.perf_counter() - began
        return dict(sorted(heard.items()))

    def _between(self, said: Sequence[int], heard: str) -> list[int]:
        """Ids from the end of a reply to the header of the next."""
        cut = said[-1] not in self.speaker.end_ids
        return [*self.speaker.end_ids[: int(cut)], *self.speaker.user_turn(heard)]

    def _rollout(self, strand: _Strand, policy: str) -> Rollout:
        user, rules = self.world.user, self.world.preset.name
        episode = strand.script.episode(user, rules, policy, self.reward)
        scored = (turn.reaction for turn in episode.turns)
        return Rollout(
            prompt_ids=tuple(strand.prompt),
            completion_ids=tuple(strand.completion),
            mask=tuple(strand.mask),
            turn_ends=tuple(strand.ends),
            turn_rewards=tuple(per_turn(episode)),
            emotions=(episode.opening.emotion, *(r.emotion for r in scored if r)),
            episode=episode,
            logprobs=tuple(strand.logprobs),
        )


def _seeds(strands: Mapping[int, _Strand]) -> dict[int, int]:
    return {n: prompt_seed(s.script.task, len(s.script.turns)) for n, s in strands.items()}
