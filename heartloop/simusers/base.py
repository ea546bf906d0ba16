"""The contract of simulated users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from heartloop.simusers.dynamics import Preset
from heartloop.types import Message, Reaction, Scenario

UserState = dict[str, Any]
"""JSON-ready state of a simulated user in the middle of a dialogue."""


class SimUser(Protocol):
    """Plays a scenario: reads the policy's reply, changes its emotion, answers.

    One object holds one dialogue at a time. Everything it does follows from the scenario, the seed
    and the replies; two objects in the same state react alike.
    """

    id: str
    """Name and versions, e.g. "embedded/1+lexical/1": part of every score."""
    preset: Preset

    def open(self, scenario: Scenario, seed: int) -> Reaction:
        """Begin a dialogue: the opener, at the preset's starting emotion."""
        ...

    def react(self, history: Sequence[Message]) -> Reaction:
        """The reaction to the last message of the visible dialogue, which is the policy's.

        Raises:
            EpisodeFailure: the reply could not be scored.
        """
        ...

    def snapshot(self) -> UserState:
        """The state between two turns."""
        ...

    def restore(self, state: UserState) -> None:
        """Go back to a snapshot, of this or another object of the same kind."""
        ...
