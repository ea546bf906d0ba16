"""The audit: recompute everything that a record claims.

The stored replies are given to a newly made user of the same id, preset, scenario and seed; every
text, change, emotion, appraisal, stop and score that comes out is held against the record. What a
user of another version scored cannot be replayed; its arithmetic and its reward still can be
checked. An episode that ended in an error is checked up to the error. Where a model played the
user, its raw answers are taken from the record; the prompts that they answered are made anew and
compared by their hashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from heartloop.env.play import Dialogue, Task, episode_id
from heartloop.env.record import scan
from heartloop.errors import HeartloopError, InvalidInput, RecordError
from heartloop.rewards import reward
from heartloop.simusers import dynamics
from heartloop.simusers.dynamics import Preset
from heartloop.simusers.registry import reader_of
from heartloop.types import Episode, StopReason, Value

TOLERANCE = 1e-6
"""Recorded numbers are rounded to two to four digits; this only forgives the last bit."""


class Mismatch(Value):
    """Something in a file that does not follow from the rest of it."""

    line: int
    field: str
    """Path of the value, e.g. "turns.2.reaction.emotion" (turns from 0); "" for a whole line."""
    recorded: Any = None
    recomputed: Any = None
    kind: Literal["value", "version", "unverifiable", "broken"] = "value"
    """A wrong value; a user of another version; what nobody can recompute here; no episode."""
    why: str = ""

    @property
    def text(self) -> str:
        """What is wrong, without the line."""
        detail = self.why or f"recorded {self.recorded!r}, recomputed {self.recomputed!r}"
        return f"{self.field}: {detail}" if self.field else detail

    def __str__(self) -> str:
        """One line for a person."""
        return f"line {self.line}{',' if self.field else ':'} {self.text}"


def verify(path: str | Path, *, functions: bool = False) -> list[Mismatch]:
    """Everything in a file of episodes that does not follow from the rest of it.

    Args:
        path: JSON lines, as `EpisodeWriter` writes them.
        functions: Whether rewards that name Python functions may be imported and run. Leave it off
            for files of somebody else's.

    Raises:
        InvalidInput: the file cannot be read.
    """
    return [found for line, row in scan(path) for found in check(row, line, functions=functions)]


def check(
    row: Episode | RecordError, line: int = 1, *, functions: bool = False
) -> Iterator[Mismatch]:
    """The mismatches of one line."""
    if isinstance(row, RecordError):
        yield Mismatch(line=line, field="", kind="broken", why=row.reason)
        return
    audit = _Audit(row, line, functions)
    audit.run()
    yield from audit.found


class _Audit:
    """The audit of one episode."""

    def __init__(self, episode: Episode, line: int, functions: bool) -> None:
        self.episode, self.line, self.functions = episode, line, functions
        self.found: list[Mismatch] = []

    def run(self) -> None:
        """Check all that can be checked."""
        try:
            rules = dynamics.preset(self.episode.preset)
        except InvalidInput as error:
            self._cannot("preset", error)
            return
        self._identity()
        replayed = self._replay(rules)
        if replayed is None:
            self._arithmetic(rules)
        else:
            self._compare(replayed)
        self._sums()
        self._score(replayed or self.episode)

    def _differs(self, field: str, recorded: Any, recomputed: Any) -> None:
        for path, old, new in differences(recorded, recomputed, field):
            self.found.append(Mismatch(line=self.line, field=path, recorded=old, recomputed=new))

    def _cannot(self, field: str, error: Exception) -> None:
        why = f"cannot be recomputed here: {error}"
        self.found.append(Mismatch(line=self.line, field=field, kind="unverifiable", why=why))

    def _identity(self) -> None:
        episode = self.episode
        task = Task(episode.scenario, episode.seed)
        replies = [turn.reply for turn in episode.turns]
        computed = episode_id(episode.user, episode.preset, task, episode.policy, replies)
        self._differs("id", episode.id, computed)

    def _replay(self, rules: Preset) -> Episode | None:
        """The episode as the present user plays it; None where it is not the one that scored."""
        try:
            user = reader_of(self.episode, rules)
            if user.id == self.episode.user:
                return self._replayed(Dialogue(user, self.episode.scenario, self.episode.seed))
        except HeartloopError as error:
            self._cannot("user", error)
            return None
        why = f"scored by {self.episode.user}, this is {user.id}"
        self.found.append(Mismatch(
            line=self.line, field="user", kind="version", why=why,
            recorded=self.episode.user, recomputed=user.id,
        ))  # fmt: skip
        return None

    def _replayed(self, dialogue: Dialogue) -> Episode:
        for turn in self.episode.turns:
            if dialogue.stop or (turn.reaction is None and self._failed):
                break
            dialogue.step(turn.reply)
        return dialogue.episode(self.episode.policy)

    @property
    def _failed(self) -> bool:
        """Whether it ended in an error, the user's or the policy's, which no replay brings back."""
        return self.episode.stop is StopReason.ERROR

    def _compare(self, replayed: Episode) -> None:
        recorded = self.episode.model_dump(mode="json")
        computed = replayed.model_dump(mode="json")
        if self._failed:
            recorded["turns"] = [turn for turn in recorded["turns"] if turn["reaction"]]
            fields = ["turns"] if recorded["turns"] else []
            if replayed.stop:  # it had ended already: there was nothing left to fail
                fields.append("stop")
        else:
            fields = ["opening", "turns", "stop", "error"]
        for field in fields:
            self._differs(field, recorded[field], computed[field])

    def _arithmetic(self, rules: Preset) -> None:
        """Emotion from changes, and the end, by the preset alone."""
        emotion = self.episode.opening.emotion
        self._differs("opening.emotion", emotion, rules.start)
        stop: StopReason | None = None
        for number, turn in enumerate(self.episode.turns):
            if stop:
                self._differs("turns", len(self.episode.turns), number)
                return
            if turn.reaction is None:
                stop = StopReason.ERROR if self._failed else StopReason.TURN_LIMIT
                continue
            path = f"turns.{number}.reaction"
            change, after = turn.reaction.change, turn.reaction.emotion
            self._differs(f"{path}.change", change, dynamics.limit(change, rules))
            self._differs(f"{path}.emotion", after, dynamics.step(emotion, change, rules))
            emotion = after
            stop = dynamics.stop(emotion, number + 1, turn.reaction.farewell, rules)
        if not self._failed:
            self._differs("stop", self.episode.stop, stop)

    def _sums(self) -> None:
        """Contributions add up to the change."""
        for number, turn in enumerate(self.episode.turns):
            if turn.reaction and turn.reaction.appraisal.contributions:
                total = sum(turn.reaction.appraisal.contributions.values())
                path = f"turns.{number}.reaction.appraisal.contributions"
                self._differs(f"{path} (their sum)", round(total, 2), turn.reaction.change)

    def _score(self, played: Episode) -> None:
        """The reward, given what the replay made of the episode."""
        if not self.episode.reward:
            self._differs("score", _dumped(self.episode), None)
            return
        try:
            scorer = reward(self.episode.reward, functions=self.functions)
        except InvalidInput as error:
            self._cannot("reward", error)
            return
        if self.episode.stop is StopReason.ERROR:
            played = self.episode
        scored = played.model_copy(update={"score": scorer(played)})
        self._differs("score", _dumped(self.episode), _dumped(scored))


def _dumped(episode: Episode) -> dict[str, Any] | None:
    return episode.score.model_dump(mode="json") if episode.score else None


def differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf where two JSON values differ, by dotted path; None stands for "not there"."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list):
        for number in range(max(len(old), len(new))):
            pair = [row[number] if number < len(row) else None for row in (old, new)]
            yield from differences(pair[0], pair[1], f"{path}.{number}")
    elif not _same(old, new):
        yield path, old, new


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=0, abs_tol=TOLERANCE)
    return bool(old == new)
