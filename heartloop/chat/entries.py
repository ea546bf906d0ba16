"""What a chat session is made of: how it was set up, and the tree of its messages."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from heartloop.chat.drafts import Drafts
from heartloop.chat.feeling import Estimate
from heartloop.env.play import Snapshot
from heartloop.errors import InvalidInput
from heartloop.types import Episode, Message, Reaction, Reply, Scenario, StopReason, Value

Role = Literal["user", "assistant", "notice"]
NAME = 40
"""Most characters of a session's name."""
PERSON = "you"
"""Author of what the person at the keyboard wrote."""


class Mode(StrEnum):
    """Who plays whom."""

    TALK = "talk"
    HELP = "help"
    WATCH = "watch"
    REPLAY = "replay"
    COMPARE = "compare"


ABOUT = {
    Mode.TALK: "you write, the policy answers",
    Mode.HELP: "a simulated user writes, you answer and are scored",
    Mode.WATCH: "a policy answers a simulated user, step by step",
    Mode.REPLAY: "a recorded episode",
    Mode.COMPARE: "you write, two policies answer side by side",
}


class Setup(Value):
    """Everything a session was begun with."""

    mode: Mode
    policies: tuple[str, ...] = ()
    """Specs of `make_policy`; two in compare."""
    user: str = "embedded"
    preset: str = "default"
    scenario: Scenario | None = None
    seed: int = 0
    episode: Episode | None = None
    """What a replay shows."""


class Entry(Value):
    """One message of a session. Its siblings are other versions of it; none is ever lost."""

    id: int
    parent: int | None
    role: Role
    author: str
    text: str
    think: str | None = None
    raw: str | None = None
    tokens: int | None = None
    cut: bool = False
    """Broken off before its end, by the person or by a crash."""
    referral: bool = False
    """A notice that stands in the place of a reply."""
    reaction: Reaction | None = None
    feeling: Estimate | None = None
    drafts: Drafts | None = None
    """What a loop tried before it said this."""
    state: Snapshot | None = None
    """Where the simulated dialogue stands after this message."""

    @property
    def reply(self) -> Reply:
        """The message as the policy's reply."""
        return Reply(text=self.text, think=self.think, raw=self.raw, tokens=self.tokens)

    @property
    def message(self) -> Message:
        """The message as a policy sees it."""
        role: Literal["user", "assistant"] = "user" if self.role == "user" else "assistant"
        return Message(role=role, content=self.text)

    @property
    def level(self) -> float | None:
        """The emotion it carries, 0 to 100: scored, or else estimated."""
        if self.reaction:
            return self.reaction.emotion
        return self.feeling.level if self.feeling else None

    @property
    def stop(self) -> StopReason | None:
        """Why the simulated dialogue ended with this message, if it did."""
        return self.state.stop if self.state else None


def check(setup: Setup) -> None:
    """See that a setup has what its mode needs.

    Raises:
        InvalidInput: it has not.
    """
    needs = {Mode.HELP: 0, Mode.REPLAY: 0, Mode.COMPARE: 2}.get(setup.mode, 1)
    if len(setup.policies) != needs:
        raise InvalidInput(f"{setup.mode} takes {needs} policies, got {setup.policies!r}")
    if len(set(setup.policies)) < needs:
        raise InvalidInput(
            f"{setup.mode} takes two different policies, got {setup.policies[0]!r} twice: "
            "choose another with --against"
        )
    if setup.mode in (Mode.HELP, Mode.WATCH) and setup.scenario is None:
        raise InvalidInput(f"{setup.mode} needs a scenario: choose one with --scenario")
    if setup.mode is Mode.REPLAY and setup.episode is None:
        raise InvalidInput("replay needs an episode: choose a run directory with --run")


def title(setup: Setup) -> str:
    """What a session is called before it is given a name."""
    scenario: Scenario | None = setup.episode.scenario if setup.episode else setup.scenario
    if scenario is None:
        return " and ".join(setup.policies)
    return f"{scenario.persona.name}: {scenario.situation.title}"[:NAME]
