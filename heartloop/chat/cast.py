"""Who takes part in a session: policies and simulated users, made when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol, runtime_checkable

from heartloop.chat.drafts import Drafts, drafts
from heartloop.env.play import Policy, Prompt
from heartloop.errors import CallFailure, EpisodeFailure, HeartloopError
from heartloop.llm.base import Calls
from heartloop.simusers.base import SimUser
from heartloop.types import Reply

_POLL = 0.05
"""Seconds between two looks at whether the person wants a reply to stop."""
_OPEN = "<think>"


@runtime_checkable
class Streaming(Protocol):
    """A policy that can speak word by word."""

    def stream(self, prompt: Prompt) -> Iterator[str]:
        """Pieces that add up to the generated text of the reply."""
        ...


def _policy(spec: str) -> Policy:
    from heartloop.policy.base import make_policy

    return make_policy(spec)


def _user(spec: str, preset: str) -> SimUser:
    from heartloop.simusers.registry import make_user

    return make_user(spec, preset)


class Cast:
    """Policies and users by name; each is made once."""

    def __init__(
        self,
        make_policy: Callable[[str], Policy] = _policy,
        make_user: Callable[[str, str], SimUser] = _user,
    ) -> None:
        """Make them with these functions; by default with those of the command line."""
        self._make_policy, self._make_user = make_policy, make_user
        self._policies: dict[str, Policy] = {}
        self._users: dict[tuple[str, str], SimUser] = {}
        self._making, self._meeting = threading.Lock(), threading.Lock()

    def ready(self, spec: str) -> bool:
        """Whether a policy has been made already."""
        return spec in self._policies

    def policy(self, spec: str) -> Policy:
        """The policy of that spec; the first call may take long."""
        with self._making:
            if spec not in self._policies:
                self._policies[spec] = self._make_policy(spec)
            return self._policies[spec]

    def user(self, spec: str, preset: str) -> SimUser:
        """The simulated user of that spec, under a preset; never waits for a policy."""
        with self._meeting:
            if (spec, preset) not in self._users:
                self._users[spec, preset] = self._make_user(spec, preset)
            return self._users[spec, preset]


class Spoken(NamedTuple):
    """A reply, or what there is of it so far."""

    reply: Reply
    drafts: Drafts | None = None
    """What was tried before it, where the policy is a loop."""


class Way(StrEnum):
    """How a policy brings forth its reply."""

    WORDS = "words"
    WHOLE = "whole"
    DRAFTS = "drafts"


def way(policy: Policy) -> Way:
    """Whether a policy speaks word by word, all at once, or chooses among whole drafts."""
    from heartloop.policy.loops import Loop

    if isinstance(policy, Loop):
        return Way.DRAFTS
    return Way.WORDS if isinstance(policy, Streaming) else Way.WHOLE


def speak(policy: Policy, prompt: Prompt, stop: threading.Event) -> Iterator[Spoken]:
    """The reply as it grows; a policy that cannot stream gives it at once.

    It ends early when `stop` is set, also while the policy is still at work; calls of models that
    are then under way are given up.

    Raises:
        EpisodeFailure: the policy has no reply, or none beyond what was given.
    """
    box: SimpleQueue[Spoken | BaseException | None] = SimpleQueue()
    over, calls = threading.Event(), Calls()

    def work() -> None:
        calls.adopt()
        try:
            with closing(_states(policy, prompt)) as states:
                for spoken in states:
                    if over.is_set():
                        return
                    box.put(spoken)
            box.put(None)
        except BaseException as error:  # carried over to the thread that asked, whatever it is
            box.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while not stop.is_set():
            with suppress(Empty):
                found = box.get(timeout=_POLL)
                if found is None:
                    return
                if isinstance(found, BaseException):
                    raise _failure(policy, found) from found
                yield found
    finally:
        over.set()
        calls.cancel()


def _states(policy: Policy, prompt: Prompt) -> Generator[Spoken]:
    """The states of a growing reply, the last of them whole."""
    if not isinstance(policy, Streaming):
        yield _answered(policy, prompt)
        return
    raw = ""
    for piece in policy.stream(prompt):
        raw += piece
        yield Spoken(partial(raw))
    yield Spoken(Reply.parse(raw))


def partial(raw: str) -> Reply:
    """What is so far known of a reply of which more is to come."""
    text = raw.lstrip()
    if text.startswith(_OPEN) and "</think>" not in text:
        return Reply(text="", think=text.removeprefix(_OPEN).strip(), raw=raw)
    if _OPEN.startswith(text):
        return Reply(text="", raw=raw)
    found = Reply.parse(raw)
    if found.think is None and text.startswith(_OPEN) and text.endswith("</think>"):
        return Reply(text="", think=text[len(_OPEN) : -len("</think>")].strip(), raw=raw)
    return found


def _failure(policy: Policy, error: BaseException) -> HeartloopError:
    """What a policy raised; a bug of its own costs its reply and no more."""
    if isinstance(error, HeartloopError):
        return error
    return CallFailure(f"policy {policy.name!r} failed: {error!r}")


def _answered(policy: Policy, prompt: Prompt) -> Spoken:
    from heartloop.policy.loops import Loop

    if isinstance(policy, Loop):
        trace = policy.run(prompt)
        if trace.reply is None:
            raise EpisodeFailure(trace.error)
        return Spoken(trace.reply, drafts(trace))
    found = policy([prompt])[0]
    if isinstance(found, EpisodeFailure):
        raise found
    return Spoken(found)
