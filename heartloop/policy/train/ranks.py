"""The processes that train one model together: what each does of a whole, and what all know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0; the first one writes."""
    import torch.distributed as group

    return group.get_rank() if size() > 1 else 0


def size() -> int:
    """How many processes train together."""
    import torch.distributed as group

    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


def wait() -> None:
    """Go on when all have come here."""
    gather([])


def own(rows: Sequence[T]) -> Sequence[T]:
    """The rows that are this process's to do, neighbours all."""
    number, count = rank(), size()
    return rows[len(rows) * number // count : len(rows) * (number + 1) // count]


def gather(rows: Sequence[T]) -> list[T]:
    """The rows of all processes, in order; each must call it, and waits for the others."""
    if size() == 1:
        return list(rows)
    import torch.distributed as group

    parts: list[Sequence[T]] = [[] for _ in range(size())]
    group.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
