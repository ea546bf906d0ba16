"""What a seedling is worth before any reinforcement: loss, uptake, variety, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from heartloop.env.play import LocalWorld, Policy, Task, play_many
from heartloop.policy import scripted
from heartloop.policy.evals.stats import commonest, distinct, interval
from heartloop.policy.model import LanguageModel, ModelPolicy, Sampling
from heartloop.policy.seedling import build, corpus
from heartloop.simusers import compose
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.lexical import LexicalReader
from heartloop.simusers.phrases import content, words
from heartloop.simusers.reading import Context
from heartloop.types import Episode, Message, Value

_SAMPLES = 3
"""Dialogues shown in the card."""
_CLOSE = 0.4
"""`felt_close` of the lexical reader from which a reply counts as naming the felt emotion."""


class Figures(Value):
    """Figures of one policy on unseen people and unseen events."""

    policy: str
    user: str
    dialogues: int
    final: float
    low: float
    high: float
    """Mean final emotion with its 95 % bootstrap interval."""
    words_taken_up: float
    """Share of replies with a content word of the person's messages so far."""
    feeling_named: float
    """Share of replies that name an emotion near the felt one."""
    either: float
    distinct_2: float
    commonest_share: float
    length: float
    """Words of a reply."""
    failed: float
    """Share of dialogues that ended below the least emotion."""


class Facts(Value):
    """All that is measured about a seedling."""

    loss: float
    """Per token, on fresh dialogues of the test split."""
    figures: tuple[Figures, ...]
    samples: tuple[tuple[Message, ...], ...]


def figures(policy: Policy, number: int = 100, seed: int = 0) -> Figures:
    """Play a policy on `number` test scenarios and sum up."""
    return summed(policy.name, play(policy, number, seed))


def play(policy: Policy, number: int = 100, seed: int = 0) -> list[Episode]:
    """One dialogue on each of `number` test scenarios."""
    tasks = [Task(s, seed + i) for i, s in enumerate(compose.compose("test", number))]
    return play_many(LocalWorld(EmbeddedUser), policy, tasks, batch=50)


def summed(name: str, episodes: Sequence[Episode]) -> Figures:
    """Figures of episodes played by one policy."""
    final = interval([e.final for e in episodes])
    replies = [t.reply.text for e in episodes for t in e.turns]
    marks = [mark for e in episodes for mark in _marks(e)]
    return Figures(
        policy=name,
        user=episodes[0].user,
        dialogues=len(episodes),
        final=round(final.mean, 1),
        low=round(final.low, 1),
        high=round(final.high, 1),
        words_taken_up=_share(w for w, _ in marks),
        feeling_named=_share(f for _, f in marks),
        either=_share(w or f for w, f in marks),
        distinct_2=round(distinct(replies), 3),
        commonest_share=round(commonest(replies)[1], 4),
        length=round(sum(len(r.split()) for r in replies) / len(replies), 1),
        failed=_share(e.stop == "failure" for e in episodes),
    )


def _share(marks: Iterable[bool]) -> float:
    found = list(marks)
    return round(sum(found) / len(found), 3)


def _marks(episode: Episode) -> list[tuple[bool, bool]]:
    """For each reply: does it take up a word of the person, does it name their feeling?"""
    reader, marks = LexicalReader(), []
    history = episode.history
    for at, message in enumerate(history):
        if message.role == "assistant":
            context, reply = Context.of(episode.scenario, history[: at + 1])
            said = frozenset[str]().union(*(content(words(m)) for m in context.said))
            near = reader.read(reply, context)["felt_close"] >= _CLOSE
            marks.append((bool(content(words(reply)) & said), near))
    return marks


def loss(model: LanguageModel, number: int = 100, seed: int = 990_000) -> float:
    """Mean loss per reply token on fresh dialogues with unseen people and events."""
    import torch

    total, count = 0.0, 0
    for dialogue in corpus.dialogues(number, seed, split="test"):
        ids, said = build.encode(model.tokenizer, dialogue.messages, dialogue.planned)
        with torch.inference_mode():
            logits = model.model(torch.tensor([ids])).logits[0, :-1].float()
        mask, targets = torch.tensor(said[1:]), torch.tensor(ids[1:])
        total += float(torch.nn.functional.cross_entropy(
            logits[mask], targets[mask], reduction="sum"
        ))  # fmt: skip
        count += int(mask.sum())
    return round(total / count, 4)


def measure(folder: Path, number: int = 100, report: Callable[[str], None] | None = None) -> Facts:
    """Measure the model in `folder` beside scripted policies."""
    say = report or (lambda line: None)
    model = LanguageModel.load(folder, device="cpu")
    drawn = ModelPolicy(model, Sampling(), "seedling, temperature 1")
    greedy = ModelPolicy(model, Sampling(temperature=0), "seedling, greedy")
    others = [scripted.make(name) for name in (scripted.NEUTRAL, "reflective", "oracle")]
    rows, policies = [], list[Policy]([drawn, greedy, *others])
    for policy in policies:
        rows.append(figures(policy, number))
        say(rows[-1].model_dump_json())
    samples = tuple(tuple(e.history) for e in play(drawn, _SAMPLES))
    return Facts(loss=loss(model), figures=tuple(rows), samples=samples)
