"""Chat models as policies: any endpoint or in-process model answers the person."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from heartloop.env.play import Prompt
from heartloop.errors import CallFailure, EpisodeFailure
from heartloop.llm import ChatModel, Decoding
from heartloop.llm.base import StreamingModel, pieces, wait
from heartloop.types import Message, Reply

SYSTEM = {
    "en": "You are talking with somebody who has something on their mind. You are bright and good "
    "with people: answer so that they feel better, lighter, or helped.",
    "zh": "对方心里有事，正在和你聊天。你聪明，也懂人心："
    "好好回应，让对方感到舒服、轻松，或者真正得到帮助。",
}
"""All that a policy is told, by the language of the person; short, so that it is the model that is
measured and not the prompt."""
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class ChatPolicy:
    """A policy that a chat model speaks for; all its dialogues are under way at once."""

    model: ChatModel
    name: str
    decoding: Decoding

    @property
    def reveals(self) -> bool:
        """A model never sees the scenario."""
        return False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply | EpisodeFailure]:
        """One reply to each prompt; a call that was given up fails its own dialogue only."""
        return wait(self._all(prompts))

    async def _all(self, prompts: Sequence[Prompt]) -> list[Reply | EpisodeFailure]:
        return list(await asyncio.gather(*map(self._one, prompts)))

    async def _one(self, prompt: Prompt) -> Reply | EpisodeFailure:
        try:
            said = await self.model(_messages(prompt.history), self._drawn(prompt), "policy")
            who = f"{said.model} (finish {said.finish!r})"
            # No answer has no tokens: 0 is a model that does not count.
            return _read(said.text, who, said.completion_tokens or None)
        except CallFailure as failure:
            return failure

    def _drawn(self, prompt: Prompt) -> Decoding:
        """How the reply to a prompt is drawn."""
        return self.decoding.model_copy(update={"seed": prompt.seed % 2**31})


@dataclass(frozen=True, slots=True)
class StreamingPolicy(ChatPolicy):
    """A policy whose model can say its reply as it is made."""

    model: StreamingModel

    def stream(self, prompt: Prompt) -> Iterator[str]:
        """The reply to one prompt in pieces that add up to its generated text.

        Raises:
            CallFailure: it broke off after the pieces given, or says nothing to the person.
        """
        said = ""
        answer = self.model.stream(_messages(prompt.history), self._drawn(prompt), "policy")
        for piece in pieces(answer):
            said += piece
            yield piece
        _read(said, self.name)


def chat_policy(model: ChatModel, name: str, decoding: Decoding) -> ChatPolicy:
    """The policy a chat model speaks for; it streams where the model does."""
    if isinstance(model, StreamingModel):
        return StreamingPolicy(model, name, decoding)
    return ChatPolicy(model, name, decoding)


def _read(said: str, who: str, tokens: int | None = None) -> Reply:
    """The reply; an answer in which nothing is said to the person is none."""
    reply = Reply.parse(said)
    if not reply.text.strip() or (
        reply.think is None and reply.text.lstrip().startswith("<think>")
    ):
        failure = CallFailure(
            f"{who} said nothing to the person: {said!r:.80}; "
            "more max_tokens may help where it was still thinking"
        )
        failure.tokens = tokens
        raise failure
    return reply.model_copy(update={"tokens": tokens})


def _messages(history: Sequence[Message]) -> list[Message]:
    language = "zh" if history and _CHINESE.search(history[0].content) else "en"
    return [Message(role="system", content=SYSTEM[language]), *history]
