"""Chat models as policies: any endpoint or in-process model answers the person."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from heartloop.env.play import Prompt
from heartloop.errors import CallFailure, EpisodeFailure
from heartloop.llm import ChatModel, Completion, Decoding
from heartloop.llm.base import wait
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
        decoding = self.decoding.model_copy(update={"seed": prompt.seed % 2**31})
        try:
            said = await self.model(_messages(prompt.history), decoding, "policy")
            return _read(said)
        except CallFailure as failure:
            return failure


def _read(said: Completion) -> Reply:
    """The reply; an answer in which nothing is said to the person is none."""
    reply = Reply.parse(said.text)
    if not reply.text.strip() or (
        reply.think is None and reply.text.lstrip().startswith("<think>")
    ):
        raise CallFailure(
            f"{said.model} said nothing to the person (finish {said.finish!r}): {said.text!r:.80}; "
            "more max_tokens may help where it was still thinking"
        )
    return reply


def _messages(history: Sequence[Message]) -> list[Message]:
    language = "zh" if history and _CHINESE.search(history[0].content) else "en"
    return [Message(role="system", content=SYSTEM[language]), *history]
