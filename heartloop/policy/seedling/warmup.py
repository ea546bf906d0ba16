"""The seedling's first training: lessons in order, loss on the helper's words most of all."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartloop.errors import ConfigError, InvalidInput, OutputRefused, extra
from heartloop.policy.seedling import build, corpus
from heartloop.policy.seedling.lessons import Batch, batches
from heartloop.policy.seedling.plan import Plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

Report = Callable[[dict[str, float]], None]
_STATE = "state.safetensors"
_TOKENIZER_DIALOGUES = 1500


def warmup(
    out: Path, seed: int = 7, steps: int = 2050, *, batch: int = 8,
    minutes: float | None = None, tokens: int | None = None, resume: bool = False,
    plan: Plan | None = None, figures: int = 100, report: Report | None = None,
) -> Path:  # fmt: skip
    """Train a seedling from nothing and write it to `out`.

    Args:
        out: Folder of the model; made when missing, refused when it holds files.
        seed: Of corpus, network and order; the same seed and steps give the same weights.
        steps: Optimiser steps.
        batch: Dialogues a step.
        minutes: Time budget.
        tokens: Token budget.
        resume: Go on from the last checkpoint in `out`.
        plan: All settings at once, instead of the above.
        figures: Test dialogues to measure on for the model card; 0 leaves the card out.
        report: Called with each row of `metrics.jsonl`.

    Returns:
        `out`, with the model, the tokenizer, metrics.jsonl, figures.json and README.md.

    Raises:
        OutputRefused: `out` is in use, or cannot be written.
        ConfigError: a number is out of range.
    """
    plan = plan or Plan(seed=seed, steps=steps, batch=batch, minutes=minutes, tokens=tokens)
    _check(plan)
    _claim(out, resume)
    try:
        import torch
    except ImportError as cause:
        raise extra("train", cause) from cause
    run = _Run.begin(out, plan, torch)
    if resume:
        run.load()
    run.train(report or (lambda row: None))
    if figures:
        _describe(out, plan, figures)
    return out


def _describe(out: Path, plan: Plan, number: int) -> None:
    from heartloop.policy.seedling import card, measure

    card.write(out, plan, measure.measure(out, number))


def _check(plan: Plan) -> None:
    for name in ("steps", "batch", "longest", "save_every"):
        value = getattr(plan, name)
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value!r}")


def _claim(out: Path, resume: bool) -> None:
    """Make the folder, or refuse one in use."""
    if resume:
        if not (out / _STATE).exists():
            raise InvalidInput(f"{out} holds no checkpoint to resume from: expected {_STATE}")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputRefused(f"{out} exists: choose another folder, or resume")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"cannot write {out}: {error.strerror}") from error


@dataclass(slots=True)
class _Run:
    """A training run between two steps."""

    out: Path
    plan: Plan
    torch: Any
    tokens: PreTrainedTokenizerFast
    model: Any
    optimisers: Sequence[torch.optim.Optimizer]
    step: int = 0
    seen: int = 0
    minutes: float = 0.0

    @classmethod
    def begin(cls, out: Path, plan: Plan, torch: Any) -> _Run:
        """A new run: tokenizer from the first dialogues, an untrained network."""
        first = corpus.dialogues(_TOKENIZER_DIALOGUES, plan.seed, plan.recipe)
        tokens = build.tokenizer([m.content for d in first for m in d.messages])
        pad, end = tokens.convert_tokens_to_ids([build.PAD, build.END])
        model = build.network(plan.seed, len(tokens), pad, end)
        return cls(out, plan, torch, tokens, model, _optimisers(torch, model, plan))

    def train(self, report: Report) -> None:
        """Take the steps that are left, save on the way and at the end."""
        started = time.monotonic() - 60 * self.minutes
        for batch in islice(batches(self.plan, self.tokens), self.step, None):
            self.minutes = (time.monotonic() - started) / 60
            progress = self._progress()
            if progress >= 1:
                break
            row = self._learn(batch, progress) | {"minutes": round(self.minutes, 2)}
            ends = self._progress() >= 1
            if self.step % 10 == 0 or ends:
                self._log(row, report)
            if self.step % self.plan.save_every == 0 and not ends:
                self.save()
        build.save(self.model, self.tokens, self.out)
        (self.out / _STATE).unlink(missing_ok=True)

    def _progress(self) -> float:
        """Share of the tightest budget that is used up."""
        plan = self.plan
        shares = [self.step / plan.steps]
        if plan.minutes:
            shares.append(self.minutes / plan.minutes)
        if plan.tokens:
            shares.append(self.seen / plan.tokens)
        return max(shares)

    def _learn(self, batch: Batch, progress: float) -> dict[str, float]:
        """One optimiser step."""
        torch = self.torch
        share = _schedule(self.step, progress, self.plan.ramp)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * share
        loss, total = self._losses(batch)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.seen += sum(len(ids) for ids, _ in batch)
        return {
            "step": self.step, "tokens": self.seen, "loss": round(float(loss.detach()), 4),
            "norm": round(float(norm), 3), "rate": round(self.plan.rate * share, 6),
        }  # fmt: skip

    def _losses(self, batch: Batch) -> tuple[Any, Any]:
        """Mean loss per token of the helper's words, and of all words as they are weighted."""
        torch = self.torch
        ids, said = _padded(torch, batch, self.tokens.pad_token_id)
        targets, own = ids[:, 1:], said[:, 1:]
        weight = (own + self.plan.overheard * ~own) * (targets != self.tokens.pad_token_id)
        used = weight > 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.model.model(ids, use_cache=False).last_hidden_state[:, :-1]
            logits = self.model.lm_head(hidden[used]).float()
        each = torch.nn.functional.cross_entropy(logits, targets[used], reduction="none")
        weight = weight[used]
        return each[own[used]].mean(), (each * weight).sum() / weight.sum()

    def _log(self, row: dict[str, float], report: Report) -> None:
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        report(row)

    def save(self) -> None:
        """Write a checkpoint: the model as it is shipped, and what is needed to go on."""
        from safetensors.torch import save_file

        build.save(self.model, self.tokens, self.out)
        weights = self.model.state_dict()
        tensors = {f"model.{k}": v for k, v in weights.items() if "lm_head" not in k}
        for index, optimiser in enumerate(self.optimisers):
            for number, state in optimiser.state_dict()["state"].items():
                for key, value in state.items():
                    name = f"optimiser.{index}.{number}.{key}"
                    tensors[name] = self.torch.as_tensor(value)
        plan = json.dumps(asdict(self.plan))
        facts = {"step": str(self.step), "seen": str(self.seen), "plan": plan}
        facts["minutes"] = str(self.minutes)
        part = self.out / f"{_STATE}.part"
        save_file({k: v.contiguous() for k, v in tensors.items()}, str(part), metadata=facts)
        part.replace(self.out / _STATE)

    def load(self) -> None:
        """Go back to the last checkpoint.

        Raises:
            InvalidInput: it was made with other settings.
        """
        from safetensors import safe_open

        with safe_open(str(self.out / _STATE), framework="pt") as file:
            facts = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if json.loads(facts["plan"]) != json.loads(json.dumps(asdict(self.plan))):
            raise InvalidInput(f"{self.out} was trained with other settings: {facts['plan']}")
        self.step, self.seen = int(facts["step"]), int(facts["seen"])
        self.minutes = float(facts["minutes"])
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(weights, strict=False)
        states: list[dict[int, dict[str, Any]]] = [{} for _ in self.optimisers]
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, number, name = key.split(".")
                states[int(index)].setdefault(int(number), {})[name] = value
        for optimiser, state in zip(self.optimisers, states, strict=True):
            optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def _optimisers(torch: Any, model: Any, plan: Plan) -> Sequence[torch.optim.Optimizer]:
    """Muon for the matrices within the layers, AdamW for embeddings and norms."""
    named = dict(model.named_parameters())
    inner = [p for n, p in named.items() if p.ndim == 2 and "embed" not in n]
    outer = [p for n, p in named.items() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(
        [{"params": inner, "peak": plan.rate}], lr=plan.rate, momentum=0.95, weight_decay=0.01
    )
    adam = torch.optim.AdamW(
        [{"params": outer, "peak": plan.adam_rate}], lr=plan.adam_rate, betas=(0.9, 0.98),
        weight_decay=0.0,
    )  # fmt: skip
    return muon, adam


def _schedule(step: int, progress: float, ramp: int) -> float:
    """Share of the peak learning rate: a rise, then half a cosine down to a twentieth."""
    rise = min(1.0, (step + 1) / ramp)
    return rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def _padded(torch: Any, batch: Batch, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask, shape (dialogues, tokens)."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([x + [pad] * (longest - len(x)) for x, _ in batch])
    said = torch.tensor([x + [False] * (longest - len(x)) for _, x in batch])
    return ids, said
