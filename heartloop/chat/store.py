"""Chat sessions on the disk: one SQLite file in one private folder.

What `put` returned from survives a killed process: every write is a transaction of its own in the
write-ahead log.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from heartloop.chat.entries import Entry, Setup
from heartloop.errors import InvalidInput, OutputRefused

FILE = "chat.db"
MIGRATIONS = (
    """
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, setup TEXT NOT NULL, head INTEGER,
        created REAL NOT NULL, changed REAL NOT NULL
    );
    CREATE TABLE entries (
        key INTEGER PRIMARY KEY,
        session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        id INTEGER NOT NULL, role TEXT NOT NULL, author TEXT NOT NULL, text TEXT NOT NULL,
        body TEXT NOT NULL, UNIQUE (session, id)
    );
    """,
    """
    CREATE VIRTUAL TABLE found USING fts5 (text, tokenize = 'trigram');
    CREATE TRIGGER forget AFTER DELETE ON entries BEGIN
        DELETE FROM found WHERE rowid = old.key;
    END;
    """,
)
"""The scripts that lead from one schema version to the next; the file's version counts them."""
_TRIGRAM = 3
_HISTORY = 500


class Listed(NamedTuple):
    """A session in a list."""

    id: int
    name: str
    mode: str
    changed: float
    """Seconds since 1970."""


class Kept(NamedTuple):
    """What is known of a session besides its messages."""

    name: str
    setup: Setup
    head: int | None


class Hit(NamedTuple):
    """A message that a search found."""

    session: int
    entry: int
    name: str
    text: str


def data_dir(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """The folder of all that the client keeps, by the custom of the platform."""
    home = Path.home()
    if platform == "darwin":
        return home / "Library" / "Application Support" / "heartloop"
    if platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "heartloop"
    return Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share") / "heartloop"


class Store:
    """The sessions of a folder."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, made when it is not there.

        A file that is no whole database is moved aside and `warning` says where to.

        Raises:
            OutputRefused: the folder cannot be written.
            InvalidInput: the file was written by a later version.
        """
        self.folder, self.path, self.warning = folder, folder / FILE, ""
        self._lock = threading.RLock()
        try:
            _make_private(folder, self.path)
        except OSError as error:
            raise OutputRefused(f"cannot write {self.path}: {error.strerror}") from error
        self._base = self._opened()
        with self._writing() as base:
            base.execute(
                "INSERT INTO found (rowid, text) SELECT key, text FROM entries "
                "WHERE key NOT IN (SELECT rowid FROM found)"
            )

    def _opened(self) -> sqlite3.Connection:
        try:
            return _connect(self.path)
        except sqlite3.OperationalError as error:
            raise OutputRefused(f"cannot use {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            kept = _set_aside(self.path)
            self.warning = (
                f"{self.path} could not be read ({error}). It is kept as {kept}; "
                "this is a fresh start."
            )
            _make_private(self.folder, self.path)
            return _connect(self.path)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on the disk when the block is left."""
        try:
            with self._lock, self._base:
                yield self._base
        except sqlite3.DatabaseError as error:
            raise OutputRefused(f"cannot write {self.path}: {error}") from error

    def begin(self, name: str, setup: Setup) -> int:
        """A new session; its id."""
        now = time.time()
        with self._writing() as base:
            row = base.execute(
                "INSERT INTO sessions (name, setup, created, changed) VALUES (?, ?, ?, ?)",
                (name, setup.model_dump_json(), now, now),
            )
        return int(row.lastrowid or 0)

    def put(self, session: int, entry: Entry, *, growing: bool = False, new: bool = False) -> None:
        """Write a message, or its next state, and make it the session's head.

        Args:
            session: Whose message it is.
            entry: The message.
            growing: More of it is to come; it is made searchable when it ends.
            new: No message of its id is known yet.

        Raises:
            InvalidInput: there is one all the same: another client wrote it.
        """
        body = entry.model_dump_json(exclude_defaults=True)
        row = (session, entry.id, entry.role, entry.author, entry.text, body)
        update = "DO UPDATE SET text = excluded.text, body = excluded.body"
        known = "DO NOTHING" if new else update
        with self._writing() as base:
            found = base.execute(
                "INSERT INTO entries (session, id, role, author, text, body) "
                f"VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (session, id) {known} "
                "RETURNING key",
                row,
            ).fetchone()
            if found is None:
                raise InvalidInput(
                    f"session {session} was gone on with elsewhere: /open {session} shows it"
                )
            if not growing:
                base.execute("INSERT OR REPLACE INTO found (rowid, text) VALUES (?, ?)",
                             (found[0], entry.text))  # fmt: skip
            _move(base, session, entry.id)

    def move(self, session: int, head: int | None) -> None:
        """Note where a session goes on from."""
        with self._writing() as base:
            _move(base, session, head)

    def rename(self, session: int, name: str) -> None:
        """Give a session another name."""
        with self._writing() as base:
            base.execute("UPDATE sessions SET name = ? WHERE id = ?", (name, session))

    def delete(self, session: int) -> None:
        """Forget a session and all its messages."""
        with self._writing() as base:
            base.execute("DELETE FROM sessions WHERE id = ?", (session,))

    def sessions(self, text: str = "") -> list[Listed]:
        """The sessions whose name holds every word of `text`, in any case; last used first."""
        terms = text.casefold().split()
        rows = self._read(
            "SELECT id, name, json_extract(setup, '$.mode'), changed FROM sessions "
            "ORDER BY changed DESC, id DESC"
        )
        known = (Listed(*row) for row in rows)
        return [row for row in known if all(term in row.name.casefold() for term in terms)]

    def session(self, session: int) -> Kept:
        """One session.

        Raises:
            InvalidInput: there is none of that id, or it cannot be read.
        """
        rows = self._read("SELECT name, setup, head FROM sessions WHERE id = ?", session)
        if not rows:
            known = sorted(row.id for row in self.sessions())
            raise InvalidInput(f"no session {session!r}: known are {known or 'none'}")
        name, setup, head = rows[0]
        with self._reading(session):
            return Kept(name, Setup.model_validate_json(setup), head)

    def entries(self, session: int) -> list[Entry]:
        """Every message of a session, in the order they were begun.

        Raises:
            InvalidInput: one cannot be read.
        """
        rows = self._read("SELECT body FROM entries WHERE session = ? ORDER BY id", session)
        with self._reading(session):
            return [Entry.model_validate_json(body) for (body,) in rows]

    @contextmanager
    def _reading(self, session: int) -> Iterator[None]:
        """Name a session that cannot be read, as when a later version wrote it."""
        try:
            yield
        except ValidationError as error:
            raise InvalidInput(
                f"session {session} cannot be read by this heartloop: {self.path}"
            ) from error

    def search(self, text: str, most: int = 50) -> list[Hit]:
        """Messages that contain every word of `text`, the newest first; any case, any script."""
        terms = text.split()
        if not terms:
            return []
        long = [t for t in terms if len(t) >= _TRIGRAM]
        where, values = ["entries.text LIKE ? ESCAPE '\\'"] * len(terms), [*map(_like, terms)]
        source = "entries"
        if long:
            source = "found JOIN entries ON entries.key = found.rowid"
            where.append("found MATCH ?")
            values.append(" ".join(_quoted(t) for t in long))
        rows = self._read(
            f"SELECT session, entries.id, name, entries.text FROM {source} "
            f"JOIN sessions ON sessions.id = session WHERE {' AND '.join(where)} "
            "ORDER BY entries.key DESC LIMIT ?",
            *values, most,
        )  # fmt: skip
        return [Hit(*row) for row in rows]

    def prompts(self, author: str) -> list[str]:
        """What an author wrote last, oldest first, each text once."""
        rows = self._read(
            "SELECT text FROM entries WHERE author = ? ORDER BY key DESC LIMIT ?", author, _HISTORY
        )
        return list(dict.fromkeys(text for (text,) in rows))[::-1]

    def _read(self, question: str, *values: object) -> list[Any]:
        try:
            with self._lock:
                return self._base.execute(question, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise InvalidInput(f"cannot read {self.path}: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._base.close()


def _move(base: sqlite3.Connection, session: int, head: int | None) -> None:
    base.execute(
        "UPDATE sessions SET head = ?, changed = ? WHERE id = ?", (head, time.time(), session)
    )


def _like(term: str) -> str:
    for mark in "\\%_":
        term = term.replace(mark, f"\\{mark}")
    return f"%{term}%"


def _quoted(term: str) -> str:
    doubled = term.replace('"', '""')
    return f'"{doubled}"'


def _make_private(folder: Path, path: Path) -> None:
    """Make folder and file, so that only their owner can read them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    folder.chmod(0o700)
    path.chmod(0o600)


def _connect(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=5, check_same_thread=False)
    try:
        base.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
        base.execute("PRAGMA foreign_keys = ON")
        if (found := base.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        _migrate(base, path)
    except BaseException:
        base.close()
        raise
    return base


def _migrate(base: sqlite3.Connection, path: Path) -> None:
    (version,) = base.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise InvalidInput(
            f"{path} has schema version {version}, this heartloop knows {len(MIGRATIONS)}: "
            "update heartloop, or choose another data directory"
        )
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        base.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")


def _set_aside(path: Path) -> Path:
    """Rename a broken file and what belongs to it; where it lies now."""
    names = (path.with_name(f"{path.name}.broken-{number}") for number in count(1))
    kept = next(name for name in names if not name.exists())
    for ending in ("-wal", "-shm"):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + ending))
    return path.rename(kept)
