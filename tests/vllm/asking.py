"""What the checks of vLLM ask, and of whom."""

import asyncio
from collections.abc import Sequence

from heartloop.llm import ChatModel, Completion, Decoding
from heartloop.llm.base import wait
from heartloop.types import Message

FREE = Decoding(temperature=1.0, max_tokens=24)
GREEDY = Decoding(max_tokens=24)
MOODS = ("calm", "sad", "angry")
TYPED = Decoding(
    temperature=0.7,
    max_tokens=1000,
    form="mood",
    json_schema={
        "type": "object",
        "properties": {
            "why": {"type": "string"},
            "emotion": {"type": "integer", "minimum": 0, "maximum": 100},
            "mood": {"enum": list(MOODS)},
        },
        "required": ["why", "emotion", "mood"],
        "additionalProperties": False,
    },
)


def said(text: str = "I lost my keys on the bus.") -> list[Message]:
    return [Message(role="system", content="Be brief."), Message(role="user", content=text)]


def seeded(decoding: Decoding, seeds: Sequence[int]) -> list[Decoding]:
    return [decoding.model_copy(update={"seed": seed}) for seed in seeds]


def at_once(
    model: ChatModel, dialogues: Sequence[list[Message]], decodings: Sequence[Decoding]
) -> list[Completion]:
    async def calls() -> list[Completion]:
        work = (model(m, d, "vllm") for m, d in zip(dialogues, decodings, strict=True))
        return await asyncio.gather(*work)

    return wait(calls())
