"""Tokens a second and peak memory of training models as large as Qwen2.5's, on one GPU.

    python benchmarks/gpu_train.py [--sizes 0.5b 7b] [--algorithm ppo] [--sampler vllm]
    python benchmarks/gpu_train.py --tiny    (a few thousand weights, on a processor)

The weights are random and the tokenizer is trained on the spot: nothing is downloaded, and replies
run to their limit, so that every step costs the same. Training goes through heartloop's own trainer
with embedded users. 0.5b trains every weight in full precision, its arithmetic in half; 7b trains
low-rank adapters of rank 16 on weights in half precision, as one GPU of 80 GB holds no more.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from heartloop import config as settings
from heartloop.config import TrainConfig
from heartloop.env.play import LocalWorld
from heartloop.policy.model import LanguageModel
from heartloop.policy.seedling import build
from heartloop.policy.train import learner
from heartloop.policy.train.metrics import Row
from heartloop.policy.train.rl import train_rl
from heartloop.policy.train.session import Session
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 4096, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True,
    },
    "0.5b": {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "7b": {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
RANK = {"7b": 16}
"""Of adapters; the others train every weight."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each size and print a row for it."""
    asked = _arguments(argv)
    sizes = ["tiny"] if asked.tiny else asked.sizes
    if not asked.tiny and not torch.cuda.is_available():
        print("no GPU here: try --tiny", file=sys.stderr)
        return 2
    print(f"{'size':6}{'weights':>16}{'learn':>14}", end="")
    print(f"{'sampled/s':>12}{'learnt/s':>12}{'all/s':>10}{'peak GiB':>10}")
    for size in sizes:
        rows, model = trained(size, asked)
        _row(size, model, figures(rows))
        del model
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--sizes", nargs="+", default=["0.5b", "7b"], choices=["0.5b", "7b"])
    parser.add_argument("--steps", type=int, default=4, help="the first is not counted")
    parser.add_argument("--dialogues", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--limit", type=int, default=128, help="tokens of a reply")
    parser.add_argument("--algorithm", choices=["grpo", "ppo"], default="grpo")
    parser.add_argument("--sampler", choices=["policy", "vllm"], default="policy")
    return parser.parse_args(argv)


def recipe(size: str, asked: argparse.Namespace, out: Path) -> TrainConfig:
    """The settings of a run over a size."""
    large = size != "tiny"
    return settings.settings(
        {
            "run": {"out": str(out), "save_every": asked.steps + 1},
            "policy": {
                "max_new_tokens": asked.limit, "lora": RANK.get(size, 0),
                "gradient_checkpointing": large,
            },
            "rl": {
                "algorithm": asked.algorithm, "sampler": asked.sampler, "steps": asked.steps,
                "prompts_per_step": asked.dialogues // 4, "group": 4,
                "micro_batch": asked.micro_batch, "bf16": large, "learning_rate": 1e-6,
            },
        }
    )  # fmt: skip


def trained(size: str, asked: argparse.Namespace) -> tuple[list[Row], Any]:
    """A row of figures for each step, and the model; peak memory counts from here."""
    rows: list[Row] = []
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory() as folder:
        config = recipe(size, asked, Path(folder))
        speaker = _speaker(size, config)
        session = _Unsaved(config, speaker, Path(folder), rows.append)
        try:
            train_rl(session, LocalWorld(partial(make_user, "embedded")), pack("train"))
        finally:
            session.close()
    return rows, speaker.model


class _Unsaved(Session):
    """A run that leaves no checkpoint: the disk is not what is measured."""

    def save(self, *_: object, **__: object) -> None:
        """Write nothing."""


def _speaker(size: str, config: TrainConfig) -> LanguageModel:
    """A model of random weights that can talk in a chat format."""
    tokens = build.tokenizer([s.opener for s in pack("train")])
    shape = Qwen2Config(
        **SHAPES[size], max_position_embeddings=8192, eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if config.policy.lora else torch.float32)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model: Any = Qwen2ForCausalLM(shape)
    finally:
        torch.set_default_dtype(torch.float32)
    if config.policy.lora:
        model = learner.adapted(model, config)
    return LanguageModel(model, tokens)


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """Tokens a second over all steps but the first, and the most memory, in GiB."""

    def total(key: str) -> float:
        return sum(float(row[key] or 0) for row in rows[1:])

    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "sampled": total("sampled_tokens") / total("seconds_generation"),
        "learnt": total("tokens") / total("seconds_learning"),
        "all": total("tokens") / total("seconds"),
        "peak": peak / 2**30,
    }


def _row(size: str, model: Any, found: dict[str, float]) -> None:
    weights = sum(p.numel() for p in model.parameters())
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{size:6}{weights:16,}{learn:14,}", end="")
    print(f"{found['sampled']:12.0f}{found['learnt']:12.0f}{found['all']:10.0f}", end="")
    print(f"{found['peak']:10.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
