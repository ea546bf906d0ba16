"""Text spaces that hold any Unicode text, in vector environments too."""

from __future__ import annotations

import multiprocessing as mp
import string
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector.utils.shared_memory import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from numpy.typing import NDArray

_SAMPLES = (
    "That sounds hard.",
    "What happened then?",
    "I can see why that hurt.",
    "Take your time, I'm listening.",
    "Have you told anyone about it?",
    "You did what you could.",
    "听起来真的很难。",
    "هذا يبدو صعبًا.",
    "¿Y cómo estás ahora?",
    "🙂",
)
"""What `sample` draws from."""


class UnicodeText(Text):
    """Every text up to a number of characters, the empty one included.

    Unpaired surrogates are no text: they cannot be written as UTF-8, so they are outside.
    """

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        """All texts of at most `max_length` characters."""
        super().__init__(max_length, min_length=0, charset=string.printable, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A few sentences in some language, at times none; with a mask, what `Text` makes of it."""
        if mask is not None or probability is not None:
            return super().sample(mask, probability)
        picked = self.np_random.choice(len(_SAMPLES), size=self.np_random.integers(4))
        return " ".join(_SAMPLES[number] for number in picked)[: self.max_length]

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text, and not too long."""
        return isinstance(x, str) and len(x) <= self.max_length and is_text(x)

    def __repr__(self) -> str:
        """The space as it is made."""
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object, /) -> bool:
        """Whether `other` holds the same texts."""
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """No: characters are not numbered."""
        return False


def is_text(text: str) -> bool:
    """Whether a string holds no unpaired surrogate."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


# A text lies in shared memory as UTF-8 behind its number of bytes, in one row per environment.
# Gymnasium's own layout for Text numbers the characters of a charset, which Unicode has not.
_HEAD = 8


def _row_size(space: UnicodeText) -> int:
    return _HEAD + 4 * space.max_length


@create_shared_memory.register(UnicodeText)
def _create(space: UnicodeText, n: int = 1, ctx: Any = mp) -> Any:
    return ctx.Array("B", n * _row_size(space))


def _rows(space: UnicodeText, shared_memory: Any) -> NDArray[np.uint8]:
    flat = np.frombuffer(shared_memory.get_obj(), dtype=np.uint8)
    return flat.reshape(-1, _row_size(space))


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, values: str, shared_memory: Any) -> None:
    data = values.encode()
    row = _rows(space, shared_memory)[index]
    row[:_HEAD] = np.frombuffer(len(data).to_bytes(_HEAD, "little"), dtype=np.uint8)
    row[_HEAD : _HEAD + len(data)] = np.frombuffer(data, dtype=np.uint8)


class SharedTexts(Sequence[str]):
    """The texts that lie in shared memory now, one per environment; a deep copy keeps them.

    Gymnasium reads shared memory once and then trusts that what it got changes with the memory, as
    an array does and a string cannot.
    """

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        """Watch these rows."""
        self._rows = rows

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """The text of one environment, or of some."""
        if isinstance(index, slice):
            return tuple(map(_text, self._rows[index]))
        return _text(self._rows[index])

    def __len__(self) -> int:
        """How many environments."""
        return len(self._rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        """The texts as they are."""
        return tuple(self)


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: Any, n: int = 1) -> SharedTexts:
    return SharedTexts(_rows(space, shared_memory)[:n])


def _text(row: NDArray[np.uint8]) -> str:
    size = int.from_bytes(row[:_HEAD].tobytes(), "little")
    return row[_HEAD : _HEAD + size].tobytes().decode()
