"""Causal language models as policies: chat formatting and seeded, batched sampling."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartloop.env.play import Prompt
from heartloop.errors import ConfigError, InvalidInput, extra
from heartloop.llm.batching import control_marks, plain
from heartloop.types import Message, Reply

if TYPE_CHECKING:
    import torch

_FILLER = "heartloop"
"""Stands in for a message where only the chat format around it is wanted."""
_UNFINISHED = "\N{REPLACEMENT CHARACTER} \n\t"
_THINK = "<think>"
_DATE = "26 Jul 2024"
"""Told to chat templates that would otherwise name today's: the same dialogue is the same tokens
tomorrow. Llama's templates fall back on this day."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    seed: int = 0
    """Added to the seed of each prompt."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                "expected max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1, "
                f"got {self.max_new_tokens!r}, {self.temperature!r}, {self.top_p!r}"
            )


SPEECH = "heartloop.json"
"""In a model's folder: whether it thinks, and its system message."""


class LanguageModel:
    """A causal LM with its tokenizer and chat template."""

    def __init__(
        self, model: Any, tokenizer: Any, *, thinking: bool = False, system: str = ""
    ) -> None:
        """Wrap a model of transformers.

        Args:
            model: A causal language model.
            tokenizer: With a chat template.
            thinking: Ask the chat template for a think block.
            system: Begins every dialogue, unless empty.
        """
        self.model, self.tokenizer, self.thinking = model, tokenizer, thinking
        self.system = system
        self.end_ids = self._end_ids()
        self._marks = control_marks(tokenizer)
        self._mute = {*self.end_ids, *tokenizer.convert_tokens_to_ids(list(self._marks))}
        self._before, self._after = self._frame()
        # Some templates begin the think block themselves, so that its mark is never sampled.
        self._begun = _THINK + "\n" if self._after.rstrip().endswith(_THINK) else ""

    @classmethod
    def load(
        cls, path: str | Path, *, thinking: bool = False, system: str = "",
        device: str | None = None, exact: bool = False,
    ) -> LanguageModel:  # fmt: skip
        """Load a folder or hub id.

        Args:
            path: Where the model lies. A folder that `save` wrote brings its own `thinking` and
                `system`, which count where they are not given.
            thinking: Ask the chat template for a think block.
            system: Begins every dialogue, unless empty.
            device: Where it runs; None takes an accelerator when there is one.
            exact: Keep weights in full precision there too, as training all of them needs.

        Raises:
            MissingExtra: torch or transformers is not installed.
            InvalidInput: there is no model to be had under `path`.
        """
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as cause:
            raise extra("train", cause) from cause
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        kind = torch.float32 if place == "cpu" or exact else torch.bfloat16
        kept = _speech(Path(path))
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=kind)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"no language model under {str(path)!r}: {error}") from error
        return cls(
            model.to(place).eval(), tokenizer, thinking=thinking or kept.get("thinking", False),
            system=system or kept.get("system", ""),
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and way of speaking as a folder that `load` reads."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.thinking or self.system:
            speech = {"thinking": self.thinking, "system": self.system}
            (folder / SPEECH).write_text(json.dumps(speech), "utf-8")

    def _end_ids(self) -> tuple[int, ...]:
        """Ids that finish a reply."""
        known = getattr(self.model.generation_config, "eos_token_id", None)
        ids = [known] if isinstance(known, int) else list(known or ())
        if self.tokenizer.eos_token_id is not None:
            ids.insert(0, self.tokenizer.eos_token_id)
        if not ids:
            raise InvalidInput("the model has no end-of-turn token: expected eos_token_id")
        return tuple(dict.fromkeys(ids))

    def _text(self, messages: Sequence[Message]) -> str:
        """The dialogue in the model's chat format, up to the header of the next reply."""
        if not self.tokenizer.chat_template:
            raise InvalidInput("the tokenizer has no chat template: use a chat model")
        rows = [{"role": m.role, "content": self._plain(m.content)} for m in messages]
        if self.system:  # templates know one system message, the first
            given = [rows.pop(0)["content"]] if rows and rows[0]["role"] == "system" else []
            rows.insert(0, {"role": "system", "content": "\n\n".join([self.system, *given])})
        text: str = self.tokenizer.apply_chat_template(
            rows, add_generation_prompt=True, tokenize=False, enable_thinking=self.thinking,
            date_string=_DATE,
        )  # fmt: skip
        return text

    def _plain(self, text: str) -> str:
        """The text with the tokenizer's control tokens broken up, so that nobody can forge them."""
        return plain(text, self._marks)

    def _frame(self) -> tuple[str, str]:
        """What stands between a finished reply and the user's words, and after these."""
        user, policy = (Message(role=r, content=_FILLER) for r in ("user", "assistant"))
        _, before, after = self._text([user, policy, user]).rsplit(_FILLER, 2)
        ends = self.tokenizer.convert_ids_to_tokens(list(self.end_ids))
        found = next((mark for mark in ends if mark in before), "")
        return before.split(found, 1)[1] if found else before, after

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def start(self, history: Sequence[Message]) -> list[int]:
        """Ids of a dialogue up to the header of the next reply."""
        return self._ids(self._text(history))

    def user_turn(self, text: str) -> list[int]:
        """Ids that follow a finished reply: the user's message and the header of the next reply."""
        return self._ids(f"{self._before}{self._plain(text)}{self._after}")

    def said(self, reply: Reply) -> list[int]:
        """Ids of a finished reply, as if they had been sampled."""
        text = self._plain(reply.raw or reply.text)
        return [*self._ids(text.removeprefix(self._begun)), self.end_ids[0]]

    def text(self, ids: Sequence[int]) -> str:
        """What sampled ids spell, with the mark of a think block that the template began."""
        kept = [i for i in ids if i not in self._mute]
        # Not by skipping what is special: in some tokenizers the marks of a think block are.
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False).strip()
        return self._begun + text

    def reply(self, ids: Sequence[int]) -> Reply:
        """The reply that sampled ids spell."""
        return Reply.parse(self.text(ids)).model_copy(update={"tokens": len(ids)})

    def stream(self, context: Sequence[int], sampling: Sampling, seed: int) -> Iterator[int]:
        """The ids that `generate` would sample for one context, as they are drawn."""
        from heartloop.policy.decode import noise

        draws = noise([(seed + sampling.seed) % 2**63], sampling.max_new_tokens)
        for ids in _steps(self.model, [context], draws, sampling, self.end_ids):
            yield int(ids[0])

    def generate(
        self, contexts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int] | int
    ) -> list[list[int]]:
        """Sample a continuation of each context.

        Args:
            contexts: Token ids, each ending with the header of a reply.
            sampling: How to draw; its own seed is added to those given.
            seeds: One for each context, or one for all (their numbers are then added).

        Returns:
            The sampled ids, with the end token where one was drawn. A row follows from its context
            and seed; the rows beside it do not enter.
        """
        if not contexts:
            return []
        rows = [seeds + i for i in range(len(contexts))] if isinstance(seeds, int) else list(seeds)
        if len(rows) != len(contexts):
            raise InvalidInput(f"expected {len(contexts)} seeds, one a context, got {len(rows)}")
        from heartloop.policy.decode import noise

        draws = noise([(r + sampling.seed) % 2**63 for r in rows], sampling.max_new_tokens)
        import torch

        steps = list(_steps(self.model, contexts, draws, sampling, self.end_ids))
        return [_until(row, self.end_ids) for row in torch.stack(steps, dim=1).tolist()]


def _speech(folder: Path) -> dict[str, Any]:
    """How the model of a folder was trained to speak; empty where nothing is said."""
    path = folder / SPEECH
    speech: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return speech


def _steps(
    model: Any, contexts: Sequence[Sequence[int]], draws: torch.Tensor, sampling: Sampling,
    ends: Sequence[int],
) -> Iterator[torch.Tensor]:  # fmt: skip
    """The sampling loop: left-padded rows and one key-value cache; a token a row at a time."""
    import torch

    ids, mask = _left_padded(contexts, ends[0], model.device)
    cache = None
    done = torch.zeros(len(contexts), dtype=torch.bool, device=model.device)
    stops = torch.tensor(list(ends), device=model.device)
    draws = draws.to(model.device)
    for step in range(sampling.max_new_tokens):
        # The mode is left before each yield, or it would hold for whoever takes the tokens.
        with torch.inference_mode():
            if step:
                mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            result = model(
                input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            cache = result.past_key_values
            ids = _drawn(result.logits[:, -1].float(), draws[:, step], sampling)[:, None]
            done |= torch.isin(ids[:, 0], stops)
            ended = bool(done.all())
        yield ids[:, 0]
        if ended:
            return


def _left_padded(
    contexts: Sequence[Sequence[int]], pad: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = max(map(len, contexts))
    ids = [[pad] * (longest - len(c)) + list(c) for c in contexts]
    mask = [[0] * (longest - len(c)) + [1] * len(c) for c in contexts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _drawn(logits: torch.Tensor, aims: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """A token for each row; logits of shape (rows, vocabulary), aims uniform numbers."""
    from heartloop.policy.decode import pick

    if sampling.temperature == 0:
        return logits.argmax(-1)
    if sampling.top_p < 1:
        logits = _nucleus(logits / sampling.temperature, sampling.top_p) * sampling.temperature
    return pick(logits, aims, sampling.temperature)


def _nucleus(logits: torch.Tensor, share: float) -> torch.Tensor:
    """The logits of the likeliest tokens that together make up `share`; -inf elsewhere."""
    ranked, order = logits.softmax(-1).sort(-1, descending=True)
    spare = ranked.cumsum(-1) - ranked >= share
    return logits.masked_fill(spare.gather(-1, order.argsort(-1)), float("-inf"))


def _until(row: list[int], ends: Sequence[int]) -> list[int]:
    """The row up to and with its first end token."""
    stop = next((i for i, token in enumerate(row) if token in ends), len(row))
    return row[: stop + 1]


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """A policy that a language model speaks for."""

    model: LanguageModel
    sampling: Sampling
    name: str
    batch: int = 64
    """Dialogues at a time."""

    @property
    def reveals(self) -> bool:
        """A model never sees the scenario."""
        return False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """Draw one reply to each prompt."""
        replies: list[Reply] = []
        for start in range(0, len(prompts), self.batch):
            some = prompts[start : start + self.batch]
            contexts = [self.model.start(p.history) for p in some]
            drawn = self.model.generate(contexts, self.sampling, [p.seed for p in some])
            replies += [self.model.reply(ids) for ids in drawn]
        return replies

    def stream(self, prompt: Prompt) -> Iterator[str]:
        """The reply to one prompt as it is drawn: pieces that add up to its generated text."""
        ids: list[int] = []
        text = shown = ""
        for token in self.model.stream(
            self.model.start(prompt.history), self.sampling, prompt.seed
        ):
            ids.append(token)
            text = self.model.text(ids)
            # A character of several tokens is not readable before the last of them.
            settled = text.rstrip(_UNFINISHED)
            if settled.startswith(shown) and len(settled) > len(shown):
                yield settled[len(shown) :]
                shown = settled
        if rest := text[len(shown) :]:
            yield rest
