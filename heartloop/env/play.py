"""The one loop in which a policy meets a simulated user, alone or many at a time.

A dialogue depends on its own task alone, whatever else is played beside it: the simulated user on
(scenario, seed) and the replies, the policy's seed on (scenario, seed, sample) and the turn.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from heartloop.errors import EpisodeFailure, InvalidInput
from heartloop.rewards.base import Reward
from heartloop.simusers import dynamics
from heartloop.simusers.base import SimUser, UserState
from heartloop.types import Episode, Message, Reaction, Reply, Scenario, StopReason, Turn, Value

MakeUser = Callable[[], SimUser]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a policy gets to see before it replies."""

    history: tuple[Message, ...]
    seed: int
    """Differs from turn to turn and from sample to sample of one dialogue."""
    secret: Scenario | None = None
    """The scenario, for an oracle policy only."""


class Policy(Protocol):
    """Who answers the user; takes many dialogues at once.

    The reply to a prompt depends on that prompt only, not on the others beside it.
    """

    @property
    def name(self) -> str:
        """Stored with every episode."""
        ...

    @property
    def reveals(self) -> bool:
        """True only for an oracle, which is then given the scenario."""
        ...

    def __call__(self, prompts: Sequence[Prompt]) -> Sequence[Reply | EpisodeFailure]:
        """One reply to each prompt, in order; a failure ends that dialogue in an error."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """A dialogue to be played."""

    scenario: Scenario
    seed: int
    """Of the simulated user."""
    sample: int = 0
    """Which of several samples of one dialogue: changes the policy's seed only."""


class Outcome(NamedTuple):
    """What comes back from a simulated user, to an opening or to a reply."""

    reaction: Reaction | None
    """None where the reply stays unscored, or could not be scored."""
    stop: StopReason | None = None
    error: str = ""
    """Why it could not be scored, with `StopReason.ERROR`."""


def prompt_seed(task: Task, turn: int) -> int:
    """The policy's seed for reply number `turn` (from 0): 63 bits, as every generator takes."""
    key = f"{task.seed}:{task.sample}:{task.scenario.id}:{turn}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


@dataclass(slots=True)
class Transcript:
    """A dialogue as it grows: what was said, and how it stands."""

    task: Task
    opening: Reaction
    turns: list[Turn] = field(default_factory=list)
    stop: StopReason | None = None
    error: str = ""

    @classmethod
    def begin(cls, task: Task, outcome: Outcome, rules: dynamics.Preset) -> Transcript:
        """Start from what the user opened with; silence where it failed to."""
        opening = outcome.reaction or Reaction(text="", emotion=rules.start)
        return cls(task, opening, stop=outcome.stop, error=outcome.error)

    def add(self, reply: Reply, outcome: Outcome) -> Turn:
        """Write down a reply and what came back."""
        turn = Turn(reply=reply, reaction=outcome.reaction)
        self.turns.append(turn)
        self.stop, self.error = outcome.stop, outcome.error
        return turn

    def fail(self, failure: EpisodeFailure) -> None:
        """End it in an error: no reply could be had."""
        self.stop, self.error = StopReason.ERROR, _reason(failure)

    @property
    def history(self) -> tuple[Message, ...]:
        """The visible dialogue."""
        messages = [Message(role="user", content=self.opening.text)]
        for turn in self.turns:
            messages.append(Message(role="assistant", content=turn.reply.text))
            if turn.reaction:
                messages.append(Message(role="user", content=turn.reaction.text))
        return tuple(messages)

    def prompt(self, policy: Policy) -> Prompt:
        """What `policy` may see of it now."""
        secret = self.task.scenario if policy.reveals else None
        return Prompt(self.history, prompt_seed(self.task, len(self.turns)), secret)

    def episode(self, user: str, preset: str, policy: str, reward: Reward | None) -> Episode:
        """The whole of it as a record, scored by `reward`."""
        episode = Episode(
            id=episode_id(user, preset, self.task, policy, [t.reply for t in self.turns]),
            user=user,
            preset=preset,
            seed=self.task.seed,
            policy=policy,
            scenario=self.task.scenario,
            opening=self.opening,
            turns=tuple(self.turns),
            stop=self.stop,
            error=self.error,
        )
        if reward is None:
            return episode
        return episode.model_copy(update={"reward": reward.name, "score": reward(episode)})


def episode_id(user: str, preset: str, task: Task, policy: str, replies: Iterable[Reply]) -> str:
    """A hash of everything that makes a dialogue what it is, 16 hexadecimal digits."""
    said = [[reply.text, reply.think, reply.raw] for reply in replies]
    content = [user, preset, task.scenario.model_dump(mode="json"), task.seed, policy, said]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class Snapshot(Value):
    """A dialogue between two turns; JSON-ready."""

    user: str
    preset: str
    scenario: Scenario
    seed: int
    sample: int
    opening: Reaction
    turns: tuple[Turn, ...]
    stop: StopReason | None
    error: str
    state: UserState


class Dialogue:
    """One dialogue with one simulated user, which it takes for itself."""

    def __init__(
        self,
        user: SimUser,
        scenario: Scenario,
        seed: int,
        make_user: MakeUser | None = None,
        sample: int = 0,
    ) -> None:
        """Open the dialogue; `make_user` makes the users of its forks."""
        self.user, self._make_user = user, make_user
        task = Task(scenario, seed, sample)
        self._script = Transcript.begin(task, _open(user, task), user.preset)

    @property
    def task(self) -> Task:
        """What is being played."""
        return self._script.task

    @property
    def opening(self) -> Reaction:
        """The user's first message."""
        return self._script.opening

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns so far."""
        return tuple(self._script.turns)

    @property
    def stop(self) -> StopReason | None:
        """Why it ended, or None while it goes on."""
        return self._script.stop

    @property
    def error(self) -> str:
        """Why it could not be scored, with `StopReason.ERROR`."""
        return self._script.error

    @property
    def history(self) -> tuple[Message, ...]:
        """The visible dialogue."""
        return self._script.history

    @property
    def last(self) -> Reaction:
        """The last reaction of the user, or the opening."""
        return next((t.reaction for t in reversed(self.turns) if t.reaction), self.opening)

    def prompt(self, policy: Policy) -> Prompt:
        """What `policy` may see now."""
        return self._script.prompt(policy)

    def step(self, reply: Reply) -> Turn:
        """Give a reply to the user and hear the reaction.

        Raises:
            InvalidInput: the dialogue has ended.
        """
        if self.stop:
            raise InvalidInput(f"this dialogue has ended ({self.stop}): open a new one")
        said = Message(role="assistant", content=reply.text)
        outcome = _react(self.user, (*self.history, said), len(self.turns) + 1)
        return self._script.add(reply, outcome)

    def fail(self, failure: EpisodeFailure) -> None:
        """End the dialogue in an error: the policy has no reply."""
        self._script.fail(failure)

    def snapshot(self) -> Snapshot:
        """Where the dialogue stands."""
        script = self._script
        failed = script.stop is StopReason.ERROR
        return Snapshot(
            user=self.user.id,
            preset=self.user.preset.name,
            scenario=script.task.scenario,
            seed=script.task.seed,
            sample=script.task.sample,
            opening=script.opening,
            turns=tuple(script.turns),
            stop=script.stop,
            error=script.error,
            state={} if failed else self.user.snapshot(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of this or another dialogue with the same kind of user.

        Raises:
            InvalidInput: the snapshot is of another user or preset.
        """
        taken, here = (snapshot.user, snapshot.preset), (self.user.id, self.user.preset.name)
        if taken != here:
            raise InvalidInput(f"a snapshot of {taken} cannot be continued with {here}")
        if snapshot.state:
            self.user.restore(snapshot.state)
        task = Task(snapshot.scenario, snapshot.seed, snapshot.sample)
        turns = list(snapshot.turns)
        self._script = Transcript(task, snapshot.opening, turns, snapshot.stop, snapshot.error)

    def fork(self) -> Dialogue:
        """An independent dialogue that stands where this one stands.

        Raises:
            InvalidInput: the dialogue was opened without `make_user`.
        """
        if self._make_user is None:
            raise InvalidInput("only a dialogue opened with make_user=... can be forked")
        return resume(self._make_user, self.snapshot())

    def episode(self, policy: str, reward: Reward | None = None) -> Episode:
        """The dialogue so far as a record, scored by `reward`."""
        return self._script.episode(self.user.id, self.user.preset.name, policy, reward)


def resume(make_user: MakeUser, snapshot: Snapshot) -> Dialogue:
    """A new dialogue that stands where the snapshot was taken."""
    dialogue = Dialogue.__new__(Dialogue)
    dialogue.user, dialogue._make_user = make_user(), make_user
    dialogue.restore(snapshot)
    return dialogue


def _open(user: SimUser, task: Task) -> Outcome:
    try:
        return Outcome(user.open(task.scenario, task.seed))
    except EpisodeFailure as failure:
        return Outcome(None, StopReason.ERROR, _reason(failure))


def _react(user: SimUser, history: Sequence[Message], turn: int) -> Outcome:
    """The reaction to reply number `turn` (from 1), which ends the history."""
    if not dynamics.is_scored(turn, user.preset):
        return Outcome(None, StopReason.TURN_LIMIT)
    try:
        reaction = user.react(history)
    except EpisodeFailure as failure:
        return Outcome(None, StopReason.ERROR, _reason(failure))
    stop = dynamics.stop(reaction.emotion, turn, reaction.farewell, user.preset)
    return Outcome(reaction, stop)


def _reason(failure: EpisodeFailure) -> str:
    return str(failure) or type(failure).__name__


def play(stage: Any, policy: Policy, seed: int | None = None) -> Episode:
    """Let a policy talk until the dialogue ends.

    Args:
        stage: A Dialogue, which goes on from where it stands, or an `EmpatheticDialogue` in any
            wrappers, which is reset and stepped.
        policy: Who answers.
        seed: For an environment: of its reset. A dialogue brings its own.

    Returns:
        The episode, without a score: give `episode` to a reward for one.
    """
    act: Callable[[Reply], object]
    if isinstance(stage, Dialogue):
        dialogue, act = stage, stage.step
    else:
        stage.reset(seed=seed)
        dialogue = stage.unwrapped.dialogue
        act = lambda reply: stage.step(reply.text if reply.raw is None else reply.raw)  # noqa: E731
    while dialogue.stop is None:
        reply = _ask(policy, [dialogue.prompt(policy)])[0]
        if isinstance(reply, EpisodeFailure):
            dialogue.fail(reply)
        else:
            act(reply)
    return dialogue.episode(policy.name)


def _ask(policy: Policy, prompts: Sequence[Prompt]) -> Sequence[Reply | EpisodeFailure]:
    replies = policy(prompts)
    if len(replies) != len(prompts):
        raise InvalidInput(
            f"policy {policy.name!r} must give one reply to each of {len(prompts)} prompts,"
            f" gave {len(replies)}"
        )
    return replies


class World(Protocol):
    """Holds many dialogues, each under a number that the caller chooses."""

    @property
    def user(self) -> str:
        """Id of the simulated users in it."""
        ...

    @property
    def preset(self) -> dynamics.Preset:
        """The rules they play by."""
        ...

    def open(self, tasks: Mapping[int, Task]) -> dict[int, Outcome]:
        """Open dialogues; a number in use is opened anew. Answers for all of them."""
        ...

    def step(self, replies: Mapping[int, Reply]) -> dict[int, Outcome]:
        """Give replies and hear reactions; a dialogue that stops is forgotten.

        May answer for a part of the replies still unanswered, at least for one; the others
        follow in later calls, which may bring no new replies.
        """
        ...


class LocalWorld:
    """A world in this process."""

    def __init__(self, make_user: MakeUser) -> None:
        """Populate it with users of that make."""
        self._make_user = make_user
        one = make_user()
        self.user, self.preset = one.id, one.preset
        self._dialogues: dict[int, Dialogue] = {}

    def open(self, tasks: Mapping[int, Task]) -> dict[int, Outcome]:
        """Open dialogues."""
        return {number: self._open(number, task) for number, task in tasks.items()}

    def _open(self, number: int, task: Task) -> Outcome:
        dialogue = Dialogue(self._make_user(), task.scenario, task.seed, self._make_user)
        if dialogue.stop is None:
            self._dialogues[number] = dialogue
        return Outcome(dialogue.opening, dialogue.stop, dialogue.error)

    def step(self, replies: Mapping[int, Reply]) -> dict[int, Outcome]:
        """Give replies and hear all reactions."""
        return {number: self._step(number, reply) for number, reply in replies.items()}

    def _step(self, number: int, reply: Reply) -> Outcome:
        if number not in self._dialogues:
            raise InvalidInput(f"no dialogue is open under number {number}: open it first")
        dialogue = self._dialogues[number]
        turn = dialogue.step(reply)
        if dialogue.stop:
            del self._dialogues[number]
        return Outcome(turn.reaction, dialogue.stop, dialogue.error)


def play_many(
    world: World,
    policy: Policy,
    tasks: Sequence[Task],
    reward: Reward | None = None,
    batch: int | None = None,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play many dialogues, each at its own pace; a finished one makes room for a waiting one.

    Args:
        world: Where the users live.
        policy: Who answers, `batch` dialogues at a time (all of them when None).
        tasks: What to play.
        reward: Scores each episode.
        batch: Most dialogues at a time.
        on_episode: Called with each episode as soon as it ends.

    Returns:
        The episodes in the order of the tasks.
    """
    if batch is not None and batch < 1:
        raise InvalidInput(f"batch must be at least 1, got {batch!r}")
    waiting = deque(enumerate(tasks))
    cast = _Cast(world, policy, reward, on_episode)
    while waiting or cast.running:
        room = (batch or len(tasks)) - len(cast.running)
        cast.open(dict(waiting.popleft() for _ in range(min(room, len(waiting)))))
        cast.advance()
    return [cast.finished[number] for number in range(len(tasks))]


class _Cast:
    """Many dialogues under way with one policy, by number."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        reward: Reward | None,
        on_episode: Callable[[Episode], None] | None,
    ) -> None:
        self.world, self.policy, self.reward, self.on_episode = world, policy, reward, on_episode
        self.running: dict[int, Transcript] = {}
        self.finished: dict[int, Episode] = {}
        self._said: dict[int, Reply] = {}

    def open(self, tasks: Mapping[int, Task]) -> None:
        """Take on more dialogues."""
        if not tasks:
            return
        for number, outcome in sorted(self.world.open(tasks).items()):
            self.running[number] = Transcript.begin(tasks[number], outcome, self.world.preset)
            self._settle(number)

    def advance(self) -> None:
        """Let the policy reply wherever it is its turn; hear what the users made of it."""
        asked = sorted(self.running.keys() - self._said.keys())
        new: dict[int, Reply] = {}
        prompts = [self.running[number].prompt(self.policy) for number in asked]
        for number, reply in zip(asked, _ask(self.policy, prompts) if asked else (), strict=True):
            if isinstance(reply, EpisodeFailure):
                self.running[number].fail(reply)
                self._settle(number)
            else:
                new[number] = reply
        self._said |= new
        if not self._said:
            return
        for number, outcome in sorted(self.world.step(new).items()):
            self.running[number].add(self._said.pop(number), outcome)
            self._settle(number)

    def _settle(self, number: int) -> None:
        """File a dialogue that has stopped."""
        if self.running[number].stop is None:
            return
        script = self.running.pop(number)
        user, rules = self.world.user, self.world.preset
        episode = script.episode(user, rules.name, self.policy.name, self.reward)
        self.finished[number] = episode
        if self.on_episode:
            self.on_episode(episode)
