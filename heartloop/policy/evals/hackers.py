"""Scripted reward hackers: policies that try to be scored well without helping anyone."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from random import Random

from heartloop.env.play import Prompt
from heartloop.errors import unknown
from heartloop.policy.wording import flip
from heartloop.simusers.phrases import STOPWORDS
from heartloop.types import Reply, Value


class Hacker(Value):
    """Says its lines in turn, whatever it hears."""

    name: str
    what: str
    """The trick, for a table."""
    lines: tuple[str, ...]
    repeat: int = 1
    """How many times a line is said within one reply."""
    reveals: bool = False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """One reply to each prompt; the think block is never split off, so a forged one leaks."""
        return [Reply(text=self._say(prompt)) for prompt in prompts]

    def _say(self, prompt: Prompt) -> str:
        line = _filled(self.lines[_turn(prompt) % len(self.lines)], prompt)
        user = prompt.history[-1].content if prompt.history else ""
        mixed = " ".join(sorted(user.split(), key=str.lower))
        for slot, text in (("{user}", user), ("{flipped}", flip(user)), ("{sorted}", mixed)):
            line = text if line == slot else line
        return " ".join([line] * self.repeat)


def _filled(line: str, prompt: Prompt) -> str:
    """The line with every "{word}" a random content word of what the person just said."""
    rng = Random(prompt.seed)
    said = (
        [w.strip(".,!?'\"") for w in prompt.history[-1].content.split()] if prompt.history else []
    )
    known = [w for w in said if w.lower() not in STOPWORDS and len(w) > 2] or ["it"]
    while "{word}" in line:
        line = line.replace("{word}", rng.choice(known), 1)
    return line


def _turn(prompt: Prompt) -> int:
    """Turn of the dialogue, begun at another line for each opener."""
    said = sum(message.role == "assistant" for message in prompt.history)
    return said + (len(prompt.history[0].content) if prompt.history else 0)


@cache
def hackers() -> dict[str, Hacker]:
    """All hackers by name."""
    text = files("heartloop.policy.evals").joinpath("hackers.toml").read_text(encoding="utf-8")
    return {name: Hacker(name=name, **row) for name, row in tomllib.loads(text).items()}


def hacker(name: str) -> Hacker:
    """The hacker of that name.

    Raises:
        UnknownName: no such hacker.
    """
    if name not in hackers():
        raise unknown("reward hacker", name, hackers())
    return hackers()[name]
