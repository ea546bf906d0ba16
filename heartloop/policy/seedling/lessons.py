"""What the seedling is taught, in order: to repeat tokens, to copy within short dialogues, to talk.

A transformer this small finds out late that words can be copied from the context, and talks in
empty templates until then. Repeating random tokens teaches it that within minutes (induction heads:
Olsson et al. 2022, arXiv 2209.11895).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING

from heartloop.policy.seedling import build, corpus
from heartloop.policy.seedling.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Row = tuple[list[int], list[bool]]
Batch = list[Row]
"""Token ids of each dialogue, and which of them are learnt."""
_CHUNK = 32
"""Batches sorted by length together."""
_ECHO = (6, 24)
"""Fewest and most tokens to repeat."""


def batches(plan: Plan, tokens: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """All batches of a plan, one a step."""
    crowd = plan.batch * plan.crowd
    drills = corpus.dialogues(plan.drill * crowd, plan.seed + 1, corpus.DRILL)
    talks = corpus.dialogues(_talks(plan) * plan.batch, plan.seed, plan.recipe)
    return islice(
        chain(
            islice(_echoes(plan, tokens), plan.echo),
            _grouped(_coded(drills, plan, tokens), crowd, Random(f"{plan.seed}:drill")),
            _grouped(_coded(talks, plan, tokens), plan.batch, Random(f"{plan.seed}:talk")),
        ),
        plan.steps,
    )


def _talks(plan: Plan) -> int:
    """Steps left for whole dialogues."""
    return max(0, plan.steps - plan.echo - plan.drill)


def _echoes(plan: Plan, tokens: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Batches of random tokens, to be said back."""
    rng, size = Random(f"{plan.seed}:echo"), plan.batch * 3
    user, policy, end = tokens.convert_tokens_to_ids([build.USER, build.ASSISTANT, build.END])
    plain = range(len(build.SPECIAL), len(tokens) - len(build.THINK))

    def row() -> Row:
        said = rng.choices(plain, k=rng.randint(*_ECHO))
        ids = [user, *said, end, policy, *said, end]
        return ids, [False] * (len(said) + 3) + [True] * (len(said) + 1)

    while True:
        yield [row() for _ in range(size)]


def _coded(
    dialogues: Iterable[corpus.Dialogue], plan: Plan, tokens: PreTrainedTokenizerFast
) -> Iterator[Row]:
    for dialogue in dialogues:
        ids, said = build.encode(tokens, dialogue.messages, dialogue.planned)
        yield cut(ids, said, plan.longest)


def cut(ids: list[int], said: list[bool], longest: int) -> Row:
    """The dialogue up to the last whole reply that fits."""
    if len(ids) <= longest:
        return ids, said
    stop = longest
    while stop > 1 and not (said[stop - 1] and not said[stop]):
        stop -= 1
    return ids[:stop], said[:stop]


def _grouped(rows: Iterator[Row], size: int, rng: Random) -> Iterator[Batch]:
    """Batches of rows of like length, in random order."""
    while chunk := list(islice(rows, _CHUNK * size)):
        chunk.sort(key=lambda row: len(row[0]))
        groups = [chunk[i : i + size] for i in range(0, len(chunk), size)]
        rng.shuffle(groups)
        yield from groups
