"""Judges: what scores a reply before it is given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from heartloop.env.play import Dialogue, MakeUser, Prompt
from heartloop.errors import EpisodeFailure, InvalidInput
from heartloop.policy.loops.base import Kind
from heartloop.rewards.answers import Question, Verifier
from heartloop.rewards.base import Reward
from heartloop.simusers.base import UserState
from heartloop.types import (
    Episode,
    HiddenGoal,
    Message,
    Persona,
    PersonaGroup,
    Reaction,
    Reply,
    Scenario,
    Score,
    Situation,
    Turn,
)

HEARD = 1024
"""Made-up users a judge keeps between drafts of a turn, eight for each dialogue under way."""


@dataclass(frozen=True)
class Answered:
    """Knows the right answer: whatever it steers is oracle-assisted."""

    question: Question
    verifier: Verifier
    kind: Kind = "oracle"
    passes: float | None = 1.0

    @property
    def name(self) -> str:
        """As the verifier."""
        return self.verifier.id

    def __call__(self, prompt: Prompt, reply: Reply) -> Score:
        """Right or wrong."""
        return self.verifier(self.question, reply.text)


@dataclass(frozen=True)
class Rehearsal:
    """Says the reply to a fork of the very user: knows what that user hides."""

    dialogue: Dialogue
    name: str = "rehearsal"
    kind: Kind = "oracle"
    passes: float | None = None

    def __call__(self, prompt: Prompt, reply: Reply) -> Score:
        """The fork's emotion after the reply, over 100."""
        fork = self.dialogue.fork()
        reaction = fork.step(reply).reaction
        if fork.error or reaction is None:
            return Score(value=None, why=fork.error or "the preset leaves this reply unscored")
        return Score(value=reaction.emotion / 100)


class _Heard:
    """Where made-up users stand who have heard a dialogue; all drafts of a turn begin there."""

    def __init__(self) -> None:
        self._states: OrderedDict[object, UserState] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[_Heard], tuple[()]]:
        return _Heard, ()  # another process hears for itself

    def state(
        self, make_user: MakeUser, goal: HiddenGoal, said: tuple[Message, ...], seed: int
    ) -> UserState:
        """Where somebody of that goal stands."""
        key = (goal, said, seed)
        with self._lock:
            if key in self._states:
                self._states.move_to_end(key)
                return self._states[key]
        user = make_user()
        user.open(_stand_in(goal, said[0].content.strip() or "-"), seed)
        for at, message in enumerate(said):
            if message.role == "assistant":
                user.react(said[: at + 1])
        with self._lock:
            # Users may sample: whoever was first holds for every draft.
            state = self._states.setdefault(key, user.snapshot())
            if len(self._states) > HEARD:
                self._states.popitem(last=False)
            return state


@dataclass(frozen=True)
class StandIn:
    """Rehearses with made-up users who know the visible dialogue alone, one for each hidden goal.

    They hear the dialogue so far and then the reply; the score is the mean of their emotions.
    """

    make_user: MakeUser
    kind: Kind = "proxy"
    passes: float | None = None
    _heard: _Heard = field(default_factory=_Heard, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The users that stand in."""
        return f"stand-in+{self.make_user().id}"

    def __call__(self, prompt: Prompt, reply: Reply) -> Score:
        """Mean emotion over 100 of the users that could score the reply."""
        heard = tuple(m for m in prompt.history if m.role != "system")
        said = [*heard, Message(role="assistant", content=reply.text)]
        parts: dict[str, float] = {}
        for goal in HiddenGoal:
            try:
                user = self.make_user()
                user.restore(self._heard.state(self.make_user, goal, heard, prompt.seed))
                parts[goal.value] = user.react(said).emotion / 100
            except EpisodeFailure:
                continue
        if not parts:
            return Score(value=None, why="no user that stands in could score the reply")
        return Score(value=sum(parts.values()) / len(parts), parts=parts)


def _stand_in(goal: HiddenGoal, opener: str) -> Scenario:
    """Somebody of whom no more is known than what they said first."""
    return Scenario(
        id=f"stand-in-{goal.value}",
        persona=Persona(name="-"),
        group=PersonaGroup.PASSIVE,
        situation=Situation(domain="unknown", title=opener[:80], facts=(opener,)),
        goal=goal,
        felt="sadness",
        opener=opener,
    )


@dataclass(frozen=True)
class Visible:
    """A reward over the visible dialogue with the reply at its end; no emotion is in it."""

    reward: Reward
    kind: Kind = "proxy"
    passes: float | None = None

    def __post_init__(self) -> None:
        """Refuse a reward that reads emotions: here it would read made-up ones.

        Raises:
            InvalidInput: the reward changes with the emotion.
        """
        said = (Message(role="user", content="I had a long day and it went badly."),)
        reply = Reply(text="That sounds like a lot. What was the worst of it?")
        low, high = (self.reward(_episode(said, reply, emotion)).value for emotion in (20.0, 80.0))
        if low != high:
            raise InvalidInput(
                f"reward {self.reward.name!r} reads the emotion, which no visible dialogue shows: "
                "use one of the form of replies, or a stand-in user"
            )

    @property
    def name(self) -> str:
        """As the reward."""
        return self.reward.name

    def __call__(self, prompt: Prompt, reply: Reply) -> Score:
        """What the reward gives."""
        return self.reward(_episode(prompt.history, reply, 40.0))


def _episode(history: Sequence[Message], reply: Reply, emotion: float) -> Episode:
    """The visible dialogue as an episode whose emotions mean nothing."""
    said = [m for m in history if m.role != "system"]
    opener = said[0].content if said else ""
    turns = []
    for at, message in enumerate(said):
        if message.role == "assistant":
            after = said[at + 1].content if at + 1 < len(said) else ""
            heard = Reaction(text=after, emotion=emotion, change=emotion - 40)
            turns.append(Turn(reply=Reply(text=message.content), reaction=heard))
    last = Reaction(text="", emotion=emotion, change=emotion - 40)
    turns.append(Turn(reply=reply, reaction=last))
    return Episode(
        id="0" * 16,
        user="visible",
        preset="default",
        seed=0,
        policy="",
        scenario=_stand_in(HiddenGoal.EMPATHY, opener or "-"),
        opening=Reaction(text=opener, emotion=40.0),
        turns=tuple(turns),
    )
