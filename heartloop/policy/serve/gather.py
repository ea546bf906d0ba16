"""Calls that arrive together are answered in one batch, since policies take batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from heartloop.env.play import Policy, Prompt
from heartloop.env.threads import Crew
from heartloop.errors import EpisodeFailure
from heartloop.policy.model import ModelPolicy, Sampling
from heartloop.policy.serve.wire import ChatRequest, Choice, Refusal, count
from heartloop.types import Reply

WINDOW = 0.005
"""Seconds that the first of a batch waits for others."""
MOST = 64
"""Calls in one batch."""
Said = tuple[Choice, int]
"""A choice and the tokens of its prompt."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One call of a policy."""

    prompt: Prompt
    sampling: Sampling


def sampling_of(policy: Policy, request: ChatRequest) -> Sampling:
    """How a request wants its answer drawn; what it leaves open is the policy's."""
    own = policy.sampling if isinstance(policy, ModelPolicy) else Sampling()
    return Sampling(
        own.max_new_tokens if request.max_tokens is None else request.max_tokens,
        own.temperature if request.temperature is None else request.temperature,
        own.top_p if request.top_p is None else request.top_p,
        own.seed,
    )


class Gatherer:
    """Batches the calls of one policy; one batch is under way at a time."""

    def __init__(self, policy: Policy) -> None:
        """Batch calls of `policy`."""
        self._policy = policy
        self._waiting: list[tuple[Ask, asyncio.Future[Said]]] = []
        self._lead = asyncio.Lock()
        # asyncio's own threads are waited for at exit, however long a policy takes.
        self._crew = Crew("heartloop-policy", 1)

    async def __call__(self, ask: Ask) -> Said:
        """The policy's answer; whoever waits longest leads the next batch."""
        future: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        async with self._lead:
            while not future.done():
                await asyncio.sleep(WINDOW)
                # Others wait for this batch too, so it outlives the request that leads it.
                await asyncio.shield(self._batch())
        return future.result()

    async def _batch(self) -> None:
        some, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        answers: Sequence[Said | Exception]
        try:
            work = partial(_answers, self._policy, [ask for ask, _ in some])
            answers = await asyncio.wrap_future(self._crew.submit(work))
        except Exception as error:
            answers = [error] * len(some)
        for (_, future), answer in zip(some, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _answers(policy: Policy, asks: Sequence[Ask]) -> list[Said | Exception]:
    """An answer or a refusal to each ask, in order."""
    if isinstance(policy, ModelPolicy):
        return _drawn(policy, asks)
    replies = policy([ask.prompt for ask in asks])
    return [_counted(ask.prompt, reply) for ask, reply in zip(asks, replies, strict=True)]


def _counted(prompt: Prompt, reply: Reply | EpisodeFailure) -> Said | Exception:
    if isinstance(reply, EpisodeFailure):
        return reply
    read = sum(count(message.content) for message in prompt.history)
    return Choice(reply.text, reply.think, tokens=count(reply.raw or reply.text)), read


def _drawn(policy: ModelPolicy, asks: Sequence[Ask]) -> list[Said | Exception]:
    """As the policy draws them, but each ask with its own sampling and tokens counted exactly."""
    contexts = [policy.model.start(ask.prompt.history) for ask in asks]
    answers: dict[int, Said | Exception] = {}
    groups: dict[Sampling, list[int]] = {}
    for row, ask in enumerate(asks):
        room = _room(policy, contexts[row])
        if room < 1:
            answers[row] = _too_long(contexts[row], room)
            continue
        most = min(room, ask.sampling.max_new_tokens)
        groups.setdefault(replace(ask.sampling, max_new_tokens=most), []).append(row)
    for sampling, rows in groups.items():
        seeds = [asks[row].prompt.seed for row in rows]
        drawn = policy.model.generate([contexts[row] for row in rows], sampling, seeds)
        for row, ids in zip(rows, drawn, strict=True):
            answers[row] = (_choice(policy, ids), len(contexts[row]))
    return [answers[row] for row in range(len(asks))]


def _too_long(context: Sequence[int], room: int) -> Refusal:
    most = len(context) + room - 1
    return Refusal(
        400,
        f"expected a dialogue of at most {most} tokens, got {len(context)}: shorten it",
        "context_length_exceeded",
    )


def _room(policy: ModelPolicy, context: Sequence[int]) -> int:
    """Tokens that the model can still write behind a context."""
    limit = getattr(policy.model.model.config, "max_position_embeddings", None)
    return (limit or 1 << 30) - len(context)


def _choice(policy: ModelPolicy, ids: Sequence[int]) -> Choice:
    reply = policy.model.reply(ids)
    ended = bool(ids) and ids[-1] in policy.model.end_ids
    return Choice(reply.text, reply.think, "stop" if ended else "length", len(ids))
