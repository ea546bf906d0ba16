"""Models that a vLLM engine runs in this process."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from heartloop.errors import InvalidInput, MissingExtra, extra
from heartloop.llm.base import Completion, Decoding, TokenLogprob
from heartloop.llm.batching import Batcher, Question, dialogue_ids, room
from heartloop.types import Message

BATCH = 256
"""Most dialogues at a time; the engine schedules within a batch."""


class VllmModel:
    """A chat model in a vLLM engine; calls under way at once are answered as one batch."""

    def __init__(self, name: str) -> None:
        """Load a folder or hub id; no code that comes with a model is run.

        Raises:
            MissingExtra: vLLM is not installed, or not for this machine.
            InvalidInput: there is no chat model under that name.
        """
        self.spec = f"vllm:{name}"
        self._engine = _engine(name)
        self._tokenizer = self._engine.get_tokenizer()
        if not self._tokenizer.chat_template:
            raise InvalidInput(f"the tokenizer of {name!r} has no chat template: use a chat model")
        self._context = int(self._engine.llm_engine.model_config.max_model_len)
        self._batcher = Batcher(self.spec, self._answer, BATCH)

    def __repr__(self) -> str:
        return f"VllmModel({self.spec!r})"

    async def __call__(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> Completion:
        """One answer; see `ChatModel`."""
        ids = dialogue_ids(self._tokenizer, messages)
        room(ids, decoding, self._context)
        return await self._batcher.ask(ids, decoding, purpose)

    def _answer(self, questions: Sequence[Question]) -> list[Completion]:
        prompts = [{"prompt_token_ids": list(q.ids)} for q in questions]
        rules = [_sampling(q.decoding, room(q.ids, q.decoding, self._context)) for q in questions]
        try:
            outputs = self._engine.generate(prompts, rules, use_tqdm=False)
        except _refusal() as error:
            raise ValueError(f"{error}") from error
        return [
            _completion(self.spec, q.decoding, output)
            for q, output in zip(questions, outputs, strict=True)
        ]


def _engine(name: str) -> Any:
    """An engine in this process, exact on a CPU, its JSON without idle white space."""
    # Read by vLLM when it is imported: no processes of its own, which would import all again.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    device = _device()
    from vllm import LLM

    try:
        return LLM(
            model=name,
            # "auto" would round a float32 checkpoint to bfloat16.
            dtype="float32" if device == "cpu" else "auto",
            enforce_eager=device == "cpu",
            trust_remote_code=False,
            load_format="safetensors",
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        )
    except (OSError, ValueError) as error:
        raise InvalidInput(f"vLLM cannot load {name!r}: {error}") from error


def _device() -> str:
    """The device vLLM was built for; an installed vLLM need not be one for this machine."""
    try:
        from vllm.platforms import current_platform
    except ImportError as cause:
        raise extra("vllm", cause) from cause
    device = str(current_platform.device_type or "")
    if not device:
        raise MissingExtra(
            "this vLLM has no build for this machine: install one for its GPU or CPU, "
            "or ask a server with openai:MODEL@BASE_URL"
        )
    return device


def _refusal() -> type[Exception]:
    """What the engine raises for a request that it will not take: a plain ValueError at first."""
    from vllm import exceptions

    found: type[Exception] = getattr(exceptions, "VLLMClientError", ValueError)
    return found


def _sampling(decoding: Decoding, limit: int) -> Any:
    from vllm.sampling_params import (
        SamplingParams,
        StructuredOutputsParams,
    )

    schema = decoding.json_schema
    return SamplingParams(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_tokens=limit,
        seed=decoding.seed,
        stop=list(decoding.stop),
        logprobs=decoding.top_logprobs or None,
        structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
    )


def _completion(model: str, decoding: Decoding, output: Any) -> Completion:
    answer = output.outputs[0]
    return Completion(
        text=answer.text.strip(),
        model=model,
        finish=str(answer.finish_reason or "stop"),
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(answer.token_ids),
        logprobs=_logprobs(answer, decoding.top_logprobs),
        structured=decoding.json_schema is not None,
    )


def _logprobs(answer: Any, wanted: int) -> tuple[TokenLogprob, ...]:
    """The engine reports the drawn token beside the likeliest, whether or not it is one.

    Tokens that the schema rules out have no finite logarithm and are left out.
    """
    if not wanted:
        return ()
    found = []
    for token, ranked in zip(answer.token_ids, answer.logprobs, strict=True):
        best = sorted(ranked.values(), key=lambda entry: entry.logprob, reverse=True)[:wanted]
        found.append(
            TokenLogprob(
                token=ranked[token].decoded_token or "",
                logprob=ranked[token].logprob,
                top={e.decoded_token or "": e.logprob for e in best if math.isfinite(e.logprob)},
            )
        )
    return tuple(found)
