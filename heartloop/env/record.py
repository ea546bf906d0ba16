"""Episodes in files, a JSON line each; a killed writer loses nothing that was finished."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from heartloop.errors import InvalidInput, OutputRefused, RecordError
from heartloop.types import Episode

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 16


class EpisodeWriter:
    """Appends episodes to a file; what `write` returned from is on the disk."""

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        """Begin a new file, or go on with one.

        Going on, a last line that was cut short is moved to a file beside, named by `torn`.

        Raises:
            OutputRefused: the file exists and `resume` was not asked for, or cannot be written.
        """
        self.path = Path(path)
        self.torn: Path | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (0 if resume else os.O_EXCL)
        try:
            self._file: int | None = os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o644)
        except FileExistsError as error:
            raise OutputRefused(f"{self.path} exists already: choose a new name") from error
        except OSError as error:
            raise OutputRefused(f"cannot write {self.path}: {error.strerror}") from error
        _keep_name(self.path.parent)
        if resume:
            self.torn = self._cut_torn_line()

    def write(self, *episodes: Episode) -> None:
        """Append episodes, one line each; they are on the disk when this returns.

        Raises:
            OutputRefused: the disk did not take them; the file is as it was before the line.
        """
        if self._file is None:
            raise InvalidInput(f"{self.path} has been closed: open a new writer to go on")
        for episode in episodes:
            self._append(self._file, episode.model_dump_json().encode() + b"\n")
        os.fsync(self._file)

    def _append(self, file: int, line: bytes) -> None:
        """One line in one call to the system, or nothing of it."""
        before = os.fstat(file).st_size
        try:
            written = os.write(file, line)
        except OSError as error:
            raise OutputRefused(f"cannot write {self.path}: {error.strerror}") from error
        if written < len(line):
            os.ftruncate(file, before)
            raise OutputRefused(
                f"cannot write {self.path}: only {written} of {len(line)} bytes fit"
            )

    def _cut_torn_line(self) -> Path | None:
        """Move bytes after the last newline to a file beside."""
        with self.path.open("rb") as file:
            whole = _end_of_last_line(file)
            file.seek(whole)
            rest = file.read()
        if not rest or self._file is None:
            return None
        side = _write_beside(self.path, rest)
        os.ftruncate(self._file, whole)
        os.fsync(self._file)
        _LOG.warning("%s ended in the middle of a line: %d bytes moved to %s",
                     self.path, len(rest), side)  # fmt: skip
        return side

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> EpisodeWriter:
        """Write within a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _end_of_last_line(file: BinaryIO) -> int:
    """The offset just after the last newline; 0 when there is none."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - _CHUNK)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def _write_beside(path: Path, content: bytes) -> Path:
    """Write to the first free name of the form "<name>.torn-1", on the disk before it returns."""
    for number in count(1):
        side = path.with_name(f"{path.name}.torn-{number}")
        try:
            with side.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            continue
        _keep_name(side.parent)
        return side
    raise AssertionError("unreachable")


def _keep_name(folder: Path) -> None:
    """Put a new file's name on the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def scan(path: str | Path) -> Iterator[tuple[int, Episode | RecordError]]:
    """Every line by number (from 1): an episode, or what is wrong with the line.

    Raises:
        InvalidInput: the file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, parse(path, number, line)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error


def read(path: str | Path) -> Iterator[tuple[int, Episode]]:
    """Every episode of a file with its line number.

    Raises:
        RecordError: a line is broken.
        InvalidInput: the file cannot be read.
    """
    for number, episode in scan(path):
        if isinstance(episode, RecordError):
            raise episode
        yield number, episode


def parse(path: Path, number: int, line: bytes) -> Episode | RecordError:
    """The episode of a line, or what is wrong with it."""
    try:
        return Episode.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        torn = "" if line.endswith(b"\n") else "; the line is cut short (no newline at its end)"
        return RecordError(path, number, f"expected an episode: {reason}{torn}")
