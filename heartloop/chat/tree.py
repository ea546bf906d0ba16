"""The messages of a session as a tree: versions of a message are siblings, and none is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from heartloop.chat.entries import Entry
from heartloop.types import Episode


class Tree:
    """Entries by id; a child was said after its parent."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Begin with these."""
        self._entries: dict[int, Entry] = {}
        self._below: dict[int | None, list[int]] = {}
        for entry in entries:
            self.put(entry)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """All of them, in the order they were begun."""
        return iter(self._entries.values())

    def __contains__(self, number: object) -> bool:
        """Whether there is one of that id."""
        return number in self._entries

    def __getitem__(self, number: int) -> Entry:
        """The entry of that id."""
        return self._entries[number]

    @property
    def next(self) -> int:
        """The id of the next entry."""
        return max(self._entries, default=0) + 1

    def put(self, entry: Entry) -> None:
        """Take up an entry, or its next state."""
        if entry.id not in self._entries:
            self._below.setdefault(entry.parent, []).append(entry.id)
        self._entries[entry.id] = entry

    def path(self, at: int | None) -> list[Entry]:
        """The entries from the root to `at`."""
        path = []
        while at is not None:
            path.append(self._entries[at])
            at = path[-1].parent
        return path[::-1]

    def versions(self, entry: Entry) -> list[Entry]:
        """The siblings of an entry that play its role, itself included."""
        beside = (self._entries[number] for number in self._below.get(entry.parent, ()))
        return [e for e in beside if e.role == entry.role]

    def asked(self, reply: Entry) -> int | None:
        """The id of the message before an entry, notices aside."""
        at = reply.parent
        while at is not None and self._entries[at].role == "notice":
            at = self._entries[at].parent
        return at

    def leaf(self, at: int | None) -> int | None:
        """The end of the newest branch through an entry; from None, of the newest of all."""
        while below := self._below.get(at):
            at = max(below)
        return at


def laid_out(episode: Episode) -> Iterator[Entry]:
    """The entries of a recorded episode, one below the other."""
    person, numbers = episode.scenario.persona.name, count(1)

    def entry(role: str, author: str, text: str, **fields: object) -> Entry:
        number = next(numbers)
        row = {"id": number, "parent": number - 1 or None, "role": role, "author": author}
        return Entry.model_validate({**row, "text": text, **fields})

    yield entry("user", person, episode.opening.text, reaction=episode.opening)
    for turn in episode.turns:
        yield entry("assistant", episode.policy, **turn.reply.model_dump())
        if turn.reaction:
            yield entry("user", person, turn.reaction.text, reaction=turn.reaction)
