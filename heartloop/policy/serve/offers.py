"""What the endpoint offers under a model's name: simulated users, policies, the scripted brain."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Protocol

from heartloop.env.play import Dialogue
from heartloop.errors import InvalidInput, UnknownName, unknown
from heartloop.policy.base import Policy, Prompt, make_policy
from heartloop.policy.serve import brain
from heartloop.policy.serve.gather import Ask, Gatherer, sampling_of
from heartloop.policy.serve.wire import Answer, ChatMessage, ChatRequest, Choice, Refusal, count
from heartloop.simusers import compose, dynamics
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack
from heartloop.types import Message, Reaction, Reply, Scenario

EMBEDDED, BRAIN = "embedded", "brain"


class Offer(Protocol):
    """Answers chat completion requests."""

    async def __call__(self, request: ChatRequest) -> Answer:
        """The answer.

        Raises:
            Refusal: the request cannot be answered.
        """
        ...


class Menu:
    """Offers by model name."""

    def __init__(self, models: Sequence[str | Policy], *, preset: str, reveal: bool) -> None:
        """Make what `models` names; a policy object is offered under its own name.

        Raises:
            InvalidInput: a name is unknown, given twice, or there is none.
        """
        self._offers: dict[str, Offer] = {}
        user = EmbeddedOffer(dynamics.preset(preset), reveal)
        for model in models:
            name = model if isinstance(model, str) else model.name
            if name in self._offers:
                raise InvalidInput(f"expected each model once, got {name!r} twice: drop one")
            self._offers[name] = _offer(model, user)
        if not self._offers:
            raise InvalidInput("expected at least one model to serve, got none: try 'embedded'")

    @property
    def names(self) -> list[str]:
        """The models as listed."""
        return list(self._offers)

    def find(self, model: str) -> Offer:
        """The offer of that name; with "embedded" on the menu, each of its scenarios is too.

        Raises:
            Refusal: there is none.
        """
        kind, _, scenario = model.partition(":")
        served = model if model in self._offers else kind if kind == EMBEDDED else ""
        if served not in self._offers:
            raise Refusal(404, str(unknown("model", model, self._offers)), "model_not_found")
        if scenario and served == EMBEDDED:
            try:
                _shipped(scenario)
            except UnknownName as error:
                raise Refusal(404, str(error), "model_not_found") from error
        return self._offers[served]


def _offer(model: str | Policy, user: EmbeddedOffer) -> Offer:
    if not isinstance(model, str):
        return PolicyOffer(model)
    kind, _, scenario = model.partition(":")
    if kind == EMBEDDED:
        if scenario:
            _shipped(scenario)
        return user
    return BrainOffer() if model == BRAIN else PolicyOffer(make_policy(model))


@cache
def _pack() -> Mapping[str, Scenario]:
    return {scenario.id: scenario for split in compose.PACK for scenario in pack(split)}


def _shipped(name: str) -> Scenario:
    """The shipped scenario of that id."""
    if name not in _pack():
        near = get_close_matches(name, _pack(), n=1, cutoff=0.0)[0]
        raise UnknownName(f"no scenario called {name!r}; of {len(_pack())}, the nearest: {near!r}")
    return _pack()[name]


@dataclass(frozen=True, slots=True)
class EmbeddedOffer:
    """The embedded user as a chat model: "user" messages are replies to it, "assistant" its own.

    Nothing is kept between requests; each replays its dialogue from the seed.
    """

    preset: dynamics.Preset
    reveal: bool

    async def __call__(self, request: ChatRequest) -> Answer:
        """Replay the dialogue and say what comes next; all `n` choices are the same."""
        return await asyncio.to_thread(self._answer, request)

    def _answer(self, request: ChatRequest) -> Answer:
        seed = request.seed or 0
        scenario = _scenario(request.model, seed)
        dialogue = Dialogue(make_user(EMBEDDED, self.preset), scenario, seed)
        replay(dialogue, request.messages)
        silent = bool(dialogue.turns) and dialogue.turns[-1].reaction is None
        text = "" if silent else dialogue.last.text
        choice = Choice(text, tokens=count(text))
        return Answer((choice,) * request.n, _read(request), self._facts(dialogue, silent))

    def _facts(self, dialogue: Dialogue, silent: bool) -> dict[str, Any]:
        last: Reaction = dialogue.last
        facts = {
            "emotion": last.emotion,
            "change": None if silent else last.change,
            "farewell": not silent and last.farewell,
            "stop": dialogue.stop,
            "turn": len(dialogue.turns),
            "user": dialogue.user.id,
            "preset": self.preset.name,
            "scenario": dialogue.task.scenario.id,
            "seed": dialogue.task.seed,
        }
        return facts | ({"appraisal": last.appraisal.model_dump()} if self.reveal else {})


def _scenario(model: str, seed: int) -> Scenario:
    """The scenario a model name asks for, or the training scenario of that seed."""
    _, _, name = model.partition(":")
    return _shipped(name) if name else pack("train")[seed % len(pack("train"))]


def replay(dialogue: Dialogue, messages: Sequence[ChatMessage]) -> None:
    """Play the recorded messages against the user of `dialogue`.

    The opener may be left out; otherwise the user's messages and the replies must take turns, as
    they were said.

    Raises:
        Refusal: the record is of another dialogue, out of order, or goes on behind its end.
    """
    spoken = [m for m in messages if m.role in ("user", "assistant")]
    opened = bool(spoken) and spoken[0].role == "assistant"
    for number, message in enumerate(spoken, 0 if opened else 1):
        due = "user" if number % 2 else "assistant"
        if message.role != due:
            raise _refused(f"expected a message of role {due!r} next, got {message.role!r}")
        if due == "user":
            _step(dialogue, Reply.parse(message.text))
        elif message.text != dialogue.last.text:
            raise _refused(
                f"expected the user's message {number // 2} to be {dialogue.last.text!r}, got "
                f"{message.text!r}: send the texts, model and seed of the dialogue as they were"
            )
    if len(spoken) > 1 and spoken[-1].role == "assistant":
        raise _refused("expected a message of role 'user' at the end, got 'assistant': reply first")


def _step(dialogue: Dialogue, reply: Reply) -> None:
    if dialogue.stop:
        raise _refused(
            f"the dialogue ended after turn {len(dialogue.turns)} ({dialogue.stop}): open a new one"
        )
    dialogue.step(reply)


def _refused(message: str) -> Refusal:
    return Refusal(400, message, "invalid_dialogue")


def _read(request: ChatRequest) -> int:
    return sum(count(message.text) for message in request.messages)


class BrainOffer:
    """The scripted brain that answers the calls of simulated users backed by a model."""

    async def __call__(self, request: ChatRequest) -> Answer:
        """Answer the call in the prompt; choice `i` is drawn with the seed plus `i`."""
        return await asyncio.to_thread(self._answer, request)

    def _answer(self, request: ChatRequest) -> Answer:
        prompt = "\n".join(message.text for message in request.messages)
        seed, form = request.seed or 0, request.response_format
        try:
            call = brain.read(prompt)
            drawn = [brain.answer(call, seed + i) for i in range(request.n)]
        except InvalidInput as error:
            raise Refusal(400, str(error), "invalid_prompt") from error
        kept = form.fields
        rows = [{k: v for k, v in row.items() if not kept or k in kept} for row in drawn]
        texts = [brain.labelled(row) if form.type == "text" else brain.as_json(row) for row in rows]
        choices = tuple(Choice(text, tokens=count(text)) for text in texts)
        return Answer(choices, count(prompt), {"brain": brain.ID, "seed": seed})


class PolicyOffer:
    """A policy as a chat model: "user" messages are the person's, "assistant" its own."""

    def __init__(self, policy: Policy) -> None:
        """Offer `policy`.

        Raises:
            InvalidInput: it needs to see the scenario, which no request holds.
        """
        if policy.reveals:
            raise InvalidInput(
                f"policy {policy.name!r} needs the scenario, and requests hold none: serve another"
            )
        self._policy, self._gatherer = policy, Gatherer(policy)

    async def __call__(self, request: ChatRequest) -> Answer:
        """Answer as the policy; choice `i` is drawn with the seed plus `i`.

        Without a seed one is drawn, and told in the answer.
        """
        history, seed = _history(request.messages), request.seed
        seed = secrets.randbits(62) if seed is None else seed
        sampling = sampling_of(self._policy, request)
        asks = [Ask(Prompt(history, seed + i), sampling) for i in range(request.n)]
        said = await asyncio.gather(*map(self._gatherer, asks))
        choices = tuple(_cut(choice, request.stops) for choice, _ in said)
        return Answer(choices, said[0][1], {"policy": self._policy.name, "seed": seed})


def _history(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The dialogue as policies take it; earlier think blocks are left out."""
    if not messages or messages[-1].role != "user":
        got = messages[-1].role if messages else "no message"
        raise _refused(f"expected a message of role 'user' at the end, got {got!r}: add one")
    return tuple(_message(message) for message in messages)


def _message(message: ChatMessage) -> Message:
    if message.role == "assistant":
        return Message(role="assistant", content=Reply.parse(message.text).text)
    role = "system" if message.role == "developer" else message.role
    return Message(role=role, content=message.text)


def _cut(choice: Choice, stops: Sequence[str]) -> Choice:
    """The choice up to the first of the stop texts."""
    ends = [end for stop in stops if (end := choice.text.find(stop)) >= 0]
    if not ends:
        return choice
    return Choice(choice.text[: min(ends)], choice.think, "stop", choice.tokens)
