"""Where scenarios come from: the shipped pack, JSON lines, RLVER profiles, real sentences."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heartloop.errors import HeartloopError, InvalidInput, OutputRefused, RecordError, unknown
from heartloop.simusers import compose, rlver, sentences
from heartloop.types import Scenario


@cache
def pack(split: str) -> tuple[Scenario, ...]:
    """The shipped English scenarios of "train" or "test".

    Raises:
        UnknownName: there is no such split.
    """
    if split not in compose.PACK:
        raise unknown("scenario split", split, compose.PACK)
    text = files("heartloop.simusers").joinpath(f"scenarios/{split}.jsonl").read_text("utf-8")
    return tuple(Scenario.model_validate_json(line) for line in text.split("\n") if line)


def scenarios(source: str | Path) -> Sequence[Scenario]:
    """The scenarios of a split name or of a file."""
    return pack(str(source)) if str(source) in compose.PACK else load(Path(source))


def load(path: Path) -> list[Scenario]:
    """Scenarios from JSON lines: our own, RLVER profiles or sentences, told apart by their fields.

    Raises:
        InvalidInput: the file cannot be read or is empty.
        RecordError: a line is broken; it is named with the reason.
    """
    rows = list(_rows(path))
    if not rows:
        raise InvalidInput(f"{path} holds no scenario: expected JSON lines")
    make = _maker(rows[0][1])
    found: dict[str, int] = {}
    scenarios = []
    for number, row in rows:
        scenario = _made(path, number, row, make)
        if scenario is None:
            continue
        if scenario.id in found:
            first = found[scenario.id]
            raise RecordError(path, number, f"id {scenario.id!r} was used on line {first}")
        found[scenario.id] = number
        scenarios.append(scenario)
    if not scenarios:
        raise InvalidInput(f"{path} holds no usable scenario")
    return scenarios


def _rows(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"cannot read scenarios from {str(path)!r} ({error}); "
            f"give a JSON-lines file or one of {sorted(compose.PACK)}"
        ) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise RecordError(path, number, f"not JSON: {error}") from error
            if not isinstance(row, dict):
                raise RecordError(path, number, f"expected an object, got {row!r:.60}")
            yield number, row


def _maker(row: dict[str, Any]) -> Callable[[dict[str, Any]], Scenario | None]:
    """How rows like this one become scenarios."""
    if "player" in row and "scene" in row:
        return rlver.scenario
    if "text" in row and "severity_mean" in row:
        return sentences.scenario
    return Scenario.model_validate


def _made(
    path: Path, number: int, row: dict[str, Any],
    make: Callable[[dict[str, Any]], Scenario | None],
) -> Scenario | None:  # fmt: skip
    try:
        return make(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(path, number, f"{where}: {first['msg']}") from error
    except (HeartloopError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise RecordError(path, number, reason) from error


def save(path: Path, scenarios: Iterable[Scenario], *, replace: bool = False) -> None:
    """Write scenarios as JSON lines.

    Raises:
        OutputRefused: the file exists (and `replace` is off) or cannot be written.
    """
    try:
        with path.open("w" if replace else "x", encoding="utf-8") as out:
            out.writelines(s.model_dump_json(exclude_defaults=True) + "\n" for s in scenarios)
    except FileExistsError as error:
        raise OutputRefused(f"{path} exists: choose another name or remove it") from error
    except OSError as error:
        raise OutputRefused(f"cannot write {path}: {error.strerror}") from error
