"""Batched sampling for dialogues: the key-value cache is kept from turn to turn.

What a row samples follows from its own tokens and seed; beside which rows it stands can move
probabilities only by rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from heartloop.errors import InvalidInput

GROWTH = 64
"""Spare columns a cache is given when it runs out of room."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped to mypy here
    """A cache layer that writes into spare room instead of copying itself for every token."""

    keys: Tensor
    values: Tensor
    _room: list[Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append, and give everything so far, shape (rows, heads, tokens, width)."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if start == 0 or end > self._room[0].shape[-2]:
            self._grow(key_states, start, end + GROWTH)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:end, :] = new
        return self._show(end)

    def pick(self, rows: Tensor, columns: Tensor, spare: int) -> None:
        """Keep some rows, and of each the columns given, with room for `spare` more."""
        used = columns.shape[1]
        kept = []
        for old in (self.keys, self.values):
            room = old.new_zeros((len(rows), old.shape[1], used + spare, old.shape[3]))
            room[..., :used, :] = old[rows[:, None], :, columns].transpose(1, 2)
            kept.append(room)
        self._room = kept
        self._show(used)

    def _grow(self, like: Tensor, used: int, size: int) -> None:
        rows, heads, _, width = like.shape
        rooms = [like.new_zeros((rows, heads, size, width)) for _ in range(2)]
        if used:
            for room, old in zip(rooms, (self.keys, self.values), strict=True):
                room[..., :used, :] = old
        self._room = rooms
        self.is_initialized = True

    def _show(self, end: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        return self.keys, self.values


@dataclass(slots=True)
class _Row:
    """How far one dialogue has come."""

    past: int = 0
    """Tokens in the cache."""
    pending: list[int] = field(default_factory=list)
    """Tokens sampled and not yet in the cache."""


class Talk:
    """Dialogues under way: each grows by tokens given to it and by the replies it samples."""

    def __init__(self, model: Any, ends: Collection[int], limit: int, temperature: float) -> None:
        """Sample with `model`, at most `limit` tokens a reply, until one of the tokens `ends`."""
        if limit < 1 or temperature <= 0:
            raise InvalidInput(
                f"expected limit >= 1 and temperature > 0, got {limit!r}, {temperature!r}"
            )
        self._model, self._ends, self._device = model, frozenset(ends), model.device
        self._limit, self._temperature = limit, temperature
        self._rows: dict[int, _Row] = {}
        self._cache = Cache(layer_class_to_replicate=RoomyLayer)
        self._mask = self._zeros(0, 0)
        self.logprobs: dict[int, list[float]] = {}
        """Stays empty: the model that learns gives its own."""

    def reply(
        self, added: Mapping[int, Sequence[int]], seeds: Mapping[int, int]
    ) -> dict[int, list[int]]:
        """Append tokens to dialogues and sample a reply to each.

        Args:
            added: Tokens by dialogue number. The first call begins the dialogues; a number left
                out later is let go for good.
            seeds: Of the sampling, by number.

        Returns:
            The sampled tokens by number, with the end token unless the limit cut it off.
        """
        numbers = list(added)
        with torch.no_grad():
            self._keep(numbers)
            rows = [self._rows[n] for n in numbers]
            logits = self._feed([self._rows[n].pending + list(added[n]) for n in numbers])
            replies = self._sample(logits, noise([seeds[n] for n in numbers], self._limit))
        for row, reply in zip(rows, replies, strict=True):
            row.past += len(reply) - 1
            row.pending = reply[-1:]
        return dict(zip(numbers, replies, strict=True))

    def _keep(self, numbers: Sequence[int]) -> None:
        """Let go of the other rows, and of the padding between the tokens of those kept."""
        if not self._rows:
            self._rows = {n: _Row() for n in numbers}
            self._mask = self._zeros(len(numbers), 0)
            return
        place = {n: i for i, n in enumerate(self._rows)}
        if unknown := [n for n in numbers if n not in place]:
            raise InvalidInput(f"dialogues {unknown} are not under way: they began with no call")
        self._rows = {n: self._rows[n] for n in numbers}
        index = torch.tensor([place[n] for n in numbers], device=self._device)
        longest = max(row.past for row in self._rows.values())
        # A stable sort of 0 (padding) before 1 (token) moves the tokens to the right, in order.
        order = self._mask[index].argsort(dim=1, stable=True)[:, -longest:]
        self._mask = self._mask[index].gather(1, order)
        for layer in self._cache.layers:
            layer.pick(index, order, self._limit + GROWTH)

    def _feed(self, blocks: Sequence[Sequence[int]]) -> Tensor:
        """Run blocks of tokens, aligned on the right, and give the logits after each."""
        width = max(map(len, blocks))
        ids, mask = self._zeros(len(blocks), width), self._zeros(len(blocks), width)
        for i, block in enumerate(blocks):
            ids[i, width - len(block) :] = torch.tensor(block)
            mask[i, width - len(block) :] = 1
        positions = (self._pasts() + mask.cumsum(1) - 1).clamp(min=0)
        for row, block in zip(self._rows.values(), blocks, strict=True):
            row.past += len(block)
        return self._forward(ids, mask, positions)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, mask], dim=1)
        logits: Tensor = self._model(
            input_ids=ids, attention_mask=self._mask, position_ids=positions,
            past_key_values=self._cache, use_cache=True, logits_to_keep=1,
        ).logits  # fmt: skip
        return logits[:, -1]

    def _sample(self, logits: Tensor, draws: Tensor) -> list[list[int]]:
        """Draw tokens until every row has ended."""
        replies: list[list[int]] = [[] for _ in range(len(logits))]
        alive, past = list(range(len(logits))), self._pasts()
        for step in range(self._limit):
            drawn = pick(logits, draws[:, step].to(self._device), self._temperature)
            tokens = drawn.tolist()
            for i in alive:
                replies[i].append(tokens[i])
            alive = [i for i in alive if tokens[i] not in self._ends]
            if not alive or step + 1 == self._limit:
                break
            mask = self._zeros(len(logits), 1)
            mask[alive] = 1
            logits = self._forward(drawn[:, None], mask, past + step)
        return replies

    def _pasts(self) -> Tensor:
        return torch.tensor([[row.past] for row in self._rows.values()], device=self._device)

    def _zeros(self, rows: int, columns: int) -> Tensor:
        return torch.zeros((rows, columns), dtype=torch.long, device=self._device)


def noise(seeds: Sequence[int], number: int) -> Tensor:
    """Uniform numbers, shape (seeds, number), each row from its own seed."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([torch.rand(number, generator=g, dtype=torch.float64) for g in generators])


def pick(logits: Tensor, aims: Tensor, temperature: float) -> Tensor:
    """A token for each row: where in its distribution its aim (0 to 1) lies.

    Args:
        logits: Shape (rows, vocabulary).
        aims: Shape (rows,).
        temperature: Divides the logits.
    """
    mass = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
    found = torch.searchsorted(mass, aims[:, None] * mass[:, -1:], right=True)
    return found.squeeze(1).clamp(max=logits.shape[1] - 1)
