"""What the calls of models cost: counted by model and purpose, safe from any thread."""

from __future__ import annotations

import threading
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

from heartloop.llm.base import Completion, renew_after_fork


@dataclass(frozen=True, slots=True)
class Price:
    """Money for a million tokens, in whatever currency the reader has in mind."""

    prompt: float = 0.0
    completion: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Calls and what they took; every call is answered, failed or cached."""

    calls: int = 0
    failures: int = 0
    """Calls given up."""
    cached: int = 0
    """Calls answered from a cache: no tokens, no seconds."""
    retries: int = 0
    """Requests beyond the first of each call."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """Added up over calls, so that those side by side count each."""
    cost: float = 0.0

    @classmethod
    def of(cls, completion: Completion, retries: int = 0, price: Price | None = None) -> Usage:
        """The usage of one answered call."""
        price = price or Price()
        prompt, answer = completion.prompt_tokens, completion.completion_tokens
        return cls(
            calls=1,
            retries=retries,
            prompt_tokens=prompt,
            completion_tokens=answer,
            seconds=completion.seconds,
            cost=(prompt * price.prompt + answer * price.completion) / 1e6,
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Ledger:
    """Usage by model and purpose."""

    def __init__(self) -> None:
        """Begin with nothing booked."""
        self._entries: dict[tuple[str, str], Usage] = {}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Take a lock that nobody holds; what is booked stays."""
        self._lock = threading.Lock()

    def book(self, model: str, purpose: str, usage: Usage) -> None:
        """Add usage under a model (its spec, the options behind "?" left off) and a purpose."""
        key = (bare(model), purpose)
        with self._lock:
            self._entries[key] = self._entries.get(key, Usage()) + usage

    def entries(self) -> dict[tuple[str, str], Usage]:
        """Usage by (model, purpose), sorted; a copy."""
        with self._lock:
            return dict(sorted(self._entries.items()))

    def total(self) -> Usage:
        """Everything booked so far."""
        return sum(self.entries().values(), Usage())

    def record(self) -> dict[str, Any]:
        """JSON-ready: the total, and one row for each model and purpose."""
        rows = [
            {"model": model, "purpose": purpose, **asdict(usage)}
            for (model, purpose), usage in self.entries().items()
        ]
        return {"total": asdict(self.total()), "models": rows}

    def rows(self) -> list[tuple[str, ...]]:
        """A table as text: headings, one row for each model and purpose, the total."""
        heads = ("model", "purpose", *(f.name.replace("_", " ") for f in fields(Usage)))
        body = [(*key, *_cells(usage)) for key, usage in self.entries().items()]
        return [heads, *body, ("total", "", *_cells(self.total()))]


def bare(spec: str) -> str:
    """A spec without its options, which change how a model is called and not what it answers."""
    return spec.partition("?")[0]


def _cells(usage: Usage) -> tuple[str, ...]:
    *counts, seconds, cost = astuple(usage)
    return (*map(str, counts), f"{seconds:.1f}", f"{cost:.4f}")


LEDGER = Ledger()
"""The ledger of this process: every model books here."""
