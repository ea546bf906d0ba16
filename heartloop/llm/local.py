"""Models that transformers runs in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heartloop.errors import InvalidInput, extra
from heartloop.llm.base import Completion, Decoding, TokenLogprob
from heartloop.llm.batching import Batched, Batcher, Question, room

BATCH = 32
"""Most dialogues at a time."""


class LocalModel(Batched):
    """A chat model in this process; calls under way at once are answered as one batch.

    What a call samples follows from its dialogue and seed; beside which others it stands can move
    probabilities only by rounding. JSON schemas are not enforced.
    """

    def __init__(self, name: str | Path) -> None:
        """Load a folder or hub id; no code that comes with a model is run.

        Raises:
            MissingExtra: torch or transformers is not installed.
            InvalidInput: there is no chat model under that name.
        """
        self.spec = f"hf:{name}"
        self._model, self._tokenizer = _loaded(str(name))
        self._ends = _ends(self._model, self._tokenizer)
        self._context = getattr(self._model.config, "max_position_embeddings", None)
        self._batcher = Batcher(self.spec, self._answer, BATCH)

    def _answer(self, questions: Sequence[Question]) -> list[Completion]:
        rows = [
            _Row(q.decoding, room(q.ids, q.decoding, self._context), self._tokenizer, self._ends)
            for q in questions
        ]
        _generate(self._model, [q.ids for q in questions], rows)
        return [
            row.completion(self.spec, len(q.ids)) for q, row in zip(questions, rows, strict=True)
        ]


@dataclass(slots=True)
class _Row:
    """One answer that grows token by token."""

    decoding: Decoding
    limit: int
    tokenizer: Any
    ends: frozenset[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str = ""
    _generator: Any = None

    def take(self, logits: Any) -> int:
        """Draw the next token from logits of shape (vocabulary,)."""
        token = self._draw(logits)
        if token in self.ends:
            self.finish = "stop"
            return token
        self.ids.append(token)
        if self.decoding.top_logprobs:
            self.logprobs.append(self._logprob(logits, token))
        if self.decoding.stop and self._cut() is not None:
            self.finish = "stop"
        elif len(self.ids) >= self.limit:
            self.finish = "length"
        return token

    def completion(self, model: str, prompt_tokens: int) -> Completion:
        """The finished answer, without the stop text."""
        text, cut = self._text(), self._cut()
        return Completion(
            text=text[:cut].strip(),
            model=model,
            finish=self.finish,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(self.ids),
            logprobs=tuple(self.logprobs),
        )

    def _draw(self, logits: Any) -> int:
        import torch

        if self.decoding.temperature == 0:
            return int(logits.argmax())
        chances = torch.softmax(logits.double() / self.decoding.temperature, dim=-1)
        ranked, order = chances.sort(descending=True, stable=True)
        mass = ranked.cumsum(-1)
        kept = int((mass - ranked < self.decoding.top_p).sum())
        aim = self._uniform() * float(mass[kept - 1])
        place = int(torch.searchsorted(mass[:kept], aim, right=True))
        return int(order[min(place, kept - 1)])

    def _uniform(self) -> float:
        """From the call's own stream of numbers."""
        import torch

        if self._generator is None:
            self._generator = torch.Generator()
            if self.decoding.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.decoding.seed % 2**63)
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def _logprob(self, logits: Any, token: int) -> TokenLogprob:
        """Of the model's own distribution, before temperature and top_p."""
        logs = logits.double().log_softmax(-1)
        best = logs.topk(min(self.decoding.top_logprobs, len(logs)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return TokenLogprob(
            token=self.tokenizer.decode([token]),
            logprob=float(logs[token]),
            top={self.tokenizer.decode([i]): value for i, value in top if math.isfinite(value)},
        )

    def _text(self) -> str:
        text: str = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        return text

    def _cut(self) -> int | None:
        """Where the first stop text begins."""
        text = self._text() if self.decoding.stop else ""
        return min((text.find(s) for s in self.decoding.stop if s in text), default=None)


def _loaded(name: str) -> tuple[Any, Any]:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as cause:
        raise extra("train", cause) from cause
    place = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.float32 if place == "cpu" else torch.bfloat16
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=kind, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise InvalidInput(f"no language model under {name!r}: {error}") from error
    if not tokenizer.chat_template:
        raise InvalidInput(f"the tokenizer of {name!r} has no chat template: use a chat model")
    return model.to(place).eval(), tokenizer


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    known = getattr(model.generation_config, "eos_token_id", None)
    listed = [known] if isinstance(known, int) else list(known or ())
    own = tokenizer.eos_token_id
    return frozenset(listed if own is None else [*listed, own])


def _generate(model: Any, prompts: Sequence[Sequence[int]], rows: Sequence[_Row]) -> None:
    """Let every row grow until it is finished."""
    import torch

    ids, mask = _padded(prompts, model.device)
    cache = None
    with torch.inference_mode():
        while True:
            places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = model(
                input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            cache, logits = out.past_key_values, out.logits[:, -1].float().cpu()
            # A finished row is fed its first token on; nothing of it is read any more.
            drawn = [0 if r.finish else r.take(row) for r, row in zip(rows, logits, strict=True)]
            if all(r.finish for r in rows):
                return
            ids = torch.tensor(drawn, device=model.device)[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)


def _padded(prompts: Sequence[Sequence[int]], device: Any) -> tuple[Any, Any]:
    """Token ids and mask, aligned on the right."""
    import torch

    width = max(map(len, prompts))
    ids = [[0] * (width - len(p)) + list(p) for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
