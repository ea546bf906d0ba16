"""The model that learns: as it begins or as a checkpoint left it, with adapters where wanted."""

from __future__ import annotations

from pathlib import Path

from heartloop.config import TrainConfig
from heartloop.errors import ConfigError, extra
from heartloop.llm import vllm
from heartloop.policy.base import make_policy
from heartloop.policy.model import LanguageModel, ModelPolicy


def load(config: TrainConfig, folder: Path | None = None) -> LanguageModel:
    """The policy to train, at the beginning or from a checkpoint.

    Raises:
        MissingExtra: torch or, for `policy.lora`, peft, or for `rl.sampler`, vLLM is not installed.
        ConfigError: the policy cannot learn, or its system message cannot be read.
    """
    try:
        import torch
        from transformers.utils import logging
    except ImportError as cause:
        raise extra("train", cause) from cause
    if config.rl.sampler == "vllm" and "rl" in config.run.stages:
        vllm.device()
    logging.disable_progress_bar()
    torch.set_num_threads(config.run.threads)
    if folder and not config.policy.lora:
        speaker = LanguageModel.load(folder, exact=True)
    else:
        speaker = _begin(config)
    if config.policy.lora:
        speaker.model = adapted(speaker.model, config, folder)
    return speaker


def _begin(config: TrainConfig) -> LanguageModel:
    chosen = config.policy
    policy = make_policy(chosen.spec, thinking=chosen.think, exact=not chosen.lora)
    if not isinstance(policy, ModelPolicy):
        raise ConfigError(
            f"policy.spec {chosen.spec!r} cannot learn: expected a language model, "
            "such as 'seedling' or 'hf:PATH'"
        )
    speaker = policy.model
    if not chosen.system:
        return speaker
    return LanguageModel(
        speaker.model, speaker.tokenizer, thinking=speaker.thinking, system=_system(chosen.system)
    )


def _system(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.system: cannot read {path}: {error}") from error


def adapted(model: object, config: TrainConfig, folder: Path | None = None) -> object:
    """The model with low-rank adapters, new ones or those of a checkpoint."""
    try:
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model
    except ImportError as cause:
        raise extra("train", cause) from cause
    if folder:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    rank = config.policy.lora
    torch.manual_seed(config.run.seed)
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear",
                          task_type="CAUSAL_LM"),
    )  # fmt: skip
