"""Published SAGE result files (arXiv 2505.02847): a JSON row for each profile, dialogue included.

Nothing in a row is taken on trust: the emotions must follow from the changes by the published
rules, and each change from the appraisal stored beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from heartloop.errors import CallFailure, InvalidInput, RecordError
from heartloop.simusers import answers, dynamics, rlver
from heartloop.simusers.answers import Appraised
from heartloop.types import Emotion, Scenario, Value

RULES = dynamics.preset("sage-eval")
_PARTS = ("content", "TargetCompletion", "activity", "analyse")
"""Fields of a stored appraisal beside its number."""


class Heard(Value):
    """One reply and what the simulated user made of it."""

    reply: str
    appraised: Appraised
    change: float
    """As the rules admit it."""
    emotion: Emotion
    text: str
    """What the user said then."""


class Transcript(Value):
    """One dialogue of a published result file."""

    scenario: Scenario
    """With the user's first message as its opener."""
    turns: tuple[Heard, ...]
    unscored: str | None = None
    """The reply that ended a dialogue of full length."""

    @property
    def final(self) -> float:
        """Emotion at the end."""
        return self.turns[-1].emotion if self.turns else RULES.start


def load_transcripts(path: str | Path) -> list[Transcript]:
    """The dialogues of a result file.

    Raises:
        InvalidInput: the file cannot be read, or holds no row.
        RecordError: a row is broken; it is named by its line and the reason.
    """
    found = [_transcript(Path(path), number, line) for number, line in _lines(Path(path))]
    if not found:
        raise InvalidInput(f"{path} holds no transcript: expected JSON lines")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path} ({error}): give a SAGE result file") from error
    # Not splitlines: what people say may hold other line breaks than "\n".
    return ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())


def _transcript(path: Path, number: int, line: str) -> Transcript:
    try:
        return _read(json.loads(line))
    except KeyError as error:
        raise RecordError(path, number, f"expected a field {error}, found none") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(path, number, f"{where}: {first['msg']}") from error
    except (InvalidInput, CallFailure, ValueError, TypeError, AttributeError) as error:
        raise RecordError(path, number, str(error)) from error


def _read(row: Mapping[str, Any]) -> Transcript:
    history = _in_turns(row["history"])
    opening, said = history[0], history[1:]
    _agree("the first emotion-point", opening["emotion-point"], RULES.start)
    turns: list[Heard] = []
    emotion = RULES.start
    for reply, reaction in zip(said[::2], said[1::2], strict=False):
        heard = _heard(len(turns) + 1, reply, reaction, emotion)
        turns.append(heard)
        emotion = heard.emotion
    _agree("emo_point", row["emo_point"], emotion)
    unscored = said[-1]["content"] if len(said) % 2 else None
    return Transcript(
        scenario=_scenario(row, opening["content"]), turns=tuple(turns), unscored=unscored
    )


def _in_turns(history: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The history, if user and policy take turns in it and the user begins."""
    roles = [message["role"] for message in history]
    due = [("user", "assistant")[number % 2] for number in range(len(roles))]
    if not roles or roles != due:
        raise InvalidInput(f"expected user and assistant in turns, user first, got {roles!r}")
    return history


def _heard(
    turn: int, reply: Mapping[str, Any], reaction: Mapping[str, Any], before: float
) -> Heard:
    planning = reaction["planning"]
    appraised = _appraised(planning)
    change = dynamics.limit(appraised.change, RULES)
    _agree(f"planning.change of turn {turn}", answers.number(planning["change"]), change)
    (after,) = dynamics.replay([change], RULES.model_copy(update={"start": before}))
    _agree(f"emotion-point of turn {turn}", reaction["emotion-point"], after)
    return Heard(
        reply=reply["content"],
        appraised=appraised,
        change=change,
        emotion=after,
        text=reaction["content"],
    )


def _appraised(planning: Mapping[str, Any]) -> Appraised:
    """The appraisal read anew from its text.

    Where the published code could not take an answer apart, every part of it holds the whole.
    """
    parts = {planning[name] for name in _PARTS}
    text = parts.pop() if len(parts) == 1 else ""
    whole = text if "change" in text.lower() else json.dumps(planning, ensure_ascii=False)
    return cast(Appraised, answers.parse("appraise", whole))


def _agree(what: str, recorded: object, computed: float) -> None:
    if recorded != computed:
        raise InvalidInput(f"{what}: recorded {recorded!r}, the rules make it {computed:g}")


def _scenario(row: Mapping[str, Any], opener: str) -> Scenario:
    """The profile; result files name the persona group otherwise, and leave the traits out."""
    profile = {"main_cha": row["character"], "cha_group": [], "first_talk": opener}
    return rlver.scenario({**row, **profile})
