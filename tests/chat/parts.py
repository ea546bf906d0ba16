"""What the tests of the chat client share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from heartloop.chat.cast import Cast
from heartloop.chat.entries import Mode, Setup
from heartloop.chat.session import Due, Session
from heartloop.env.play import Prompt
from heartloop.policy.base import make_policy
from heartloop.simusers.registry import make_user
from heartloop.types import Reply
from tests.fakes import ToyPolicy, ToyUser, toy_scenario


@dataclass
class Streamer:
    """Speaks a fixed text in words, with a pause before each."""

    text: str = "I hear you, that is a lot to carry."
    pause: float = 0.0
    name: str = "streamer"
    reveals: bool = False

    def __call__(self, prompts) -> list[Reply]:
        return [Reply.parse(self.text) for _ in prompts]

    def stream(self, prompt: Prompt) -> Iterator[str]:
        for number, word in enumerate(self.text.split(" ")):
            time.sleep(self.pause)
            yield word if number == 0 else f" {word}"


def cast(**policies) -> Cast:
    """A cast of toys under their names, and of all that is built in."""

    def policy(spec):
        return policies[spec] if spec in policies else make_policy(spec)

    def user(spec, preset):
        return ToyUser() if spec == "toy" else make_user(spec, preset)

    return Cast(policy, user)


def session(mode="talk", *policies, store=None, players=None, **fields) -> Session:
    """A session with toys."""
    if mode in ("help", "watch"):
        fields = {"user": "toy", "scenario": toy_scenario(), **fields}
    known = {"toy": ToyPolicy(), **(players or {})}
    setup = Setup(mode=Mode(mode), policies=policies, **fields)
    return Session(setup, cast(**known), store, region="us")


def talk(one: Session, *texts: str) -> Session:
    """Say these, each answered as far as it goes."""
    for text in texts:
        one.say(text)
        go_on(one)
    return one


def go_on(one: Session) -> Session:
    """Let everybody but the person speak until it is the person's move, or over."""
    while one.due in (Due.POLICY, Due.USER):
        if one.due is Due.USER:
            one.react()
        else:
            list(one.answer())
    return one


def texts(one: Session) -> list[str]:
    return [entry.text for entry in one.path]
