"""Settings of a training run: a TOML file and `--set` overrides, checked before anything starts."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heartloop.errors import ConfigError


class Section(BaseModel):
    """Settings that belong together; immutable, no key but the known ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RunSettings(Section):
    """Where a run goes, what it grows from, and what it keeps."""

    name: str = "seedling"
    """Begins the policy's name in every episode."""
    out: Path = Path("runs/seedling")
    """The run directory; refused when it exists."""
    seed: int = Field(1, ge=0, lt=2**31)
    """Of scenarios' order, users, sampling and optimiser."""
    threads: int = Field(1, ge=1)
    """Of the policy's arithmetic. More than the free cores makes everything slower."""
    workers: int = Field(1, ge=1)
    """Processes that train together through Ray, each with a GPU where the cluster has any; with
    its own part of every batch, and its own actors."""
    stages: tuple[Literal["warmup", "improve", "rl"], ...] = Field(("rl",), min_length=1)
    """What is done, in order; each begins with the policy that the one before left."""
    save_every: int = Field(20, ge=1)
    """Optimiser steps between two checkpoints."""
    keep: int = Field(1, ge=1)
    """Last checkpoints kept, besides the best one."""
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Trackers that get every step's figures too; metrics.jsonl is always written."""


class PolicySettings(Section):
    """Who learns, and how it speaks."""

    spec: str = "seedling"
    """"seedling", "hf:PATH_OR_ID", or a folder with a checkpoint."""
    think: bool = False
    """Whether replies begin with a think block, which the user never sees."""
    max_new_tokens: int = Field(40, ge=1)
    """Most tokens of one reply, think block included."""
    temperature: float = Field(1.0, gt=0)
    """Of the sampling, in training as in evaluation."""
    system: str = ""
    """Path of a text file that begins every dialogue as the system message; "" has none."""
    lora: int = Field(0, ge=0)
    """Rank of low-rank adapters on all linear layers; 0 trains every weight."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more time, far less memory."""


class WorldSettings(Section):
    """Whom the policy learns from."""

    scenarios: str = "train"
    """A shipped split, or a file of scenarios."""
    user: str = "embedded"
    """Name of the simulated user."""
    preset: str = "default"
    """Rules of the dialogues."""
    actors: int = Field(2, ge=0)
    """Ray actors that hold the users; 0 keeps them in the trainer's process."""


class RewardSettings(Section):
    """What is learnt for."""

    spec: str = "final"
    """Rewards joined by "+", each with an optional weight: "final+0.2*length+format"."""
    credit: Literal["terminal", "turn", "centred"] = "terminal"
    """Which turns a reward is put down to: all alike; each by what came after it; all alike and
    each by its own change (docs/training.md)."""


class SftSettings(Section):
    """Supervised training on dialogues; the loss is on the policy's words only."""

    steps: int = Field(50, ge=1)
    """Optimiser steps, of each round."""
    dialogues: int = Field(8, ge=1)
    """In a step."""
    micro_batch: int = Field(8, ge=1)
    """Dialogues in one backward pass; must divide `dialogues`."""
    learning_rate: float = Field(1e-4, gt=0)
    """Where AdamW's rate begins; it falls to 0 in a line, in each round anew."""
    least: float = Field(0.5)
    """Score from which a dialogue is worth learning."""
    best: int = Field(1, ge=1)
    """Dialogues kept of each scenario, from the highest score."""


class WarmupSettings(SftSettings):
    """Learning from others: recorded dialogues, or those of another policy."""

    episodes: Path | None = None
    """A file to learn from: episodes, or lines of `messages`, which have no score and are all
    learnt; None plays `teacher`."""
    teacher: str = "reflective"
    """The policy that plays where there is no file."""
    people: int = Field(200, ge=1)
    """Scenarios that the teacher plays."""


class ImproveSettings(SftSettings):
    """Learning from oneself: sample, keep the good dialogues, train on them (arXiv 2412.09413)."""

    rounds: int = Field(1, ge=1)
    """How often."""
    people: int = Field(100, ge=1)
    """Scenarios that are played in a round."""
    samples: int = Field(4, ge=1)
    """Dialogues with each."""


class RlSettings(Section):
    """Reinforcement learning: group relative or proximal policy optimisation.

    The first is of arXiv 2402.03300; the second of 1707.06347, with a critic.
    """

    algorithm: Literal["grpo", "ppo"] = "grpo"
    """Whose advantages: against the group, or against a critic's values (`[ppo]`)."""
    sampler: Literal["policy", "vllm"] = "policy"
    """Who draws the replies that are learnt from: the policy itself, or a vLLM engine beside it."""
    steps: int = Field(60, ge=0)
    """Optimiser steps."""
    prompts_per_step: int = Field(4, ge=1)
    """Different dialogues in a batch."""
    group: int = Field(8, ge=1)
    """Samples of each dialogue; a group shares scenario, user, and the user's noise."""
    micro_batch: int = Field(16, ge=1)
    """Dialogues in one backward pass; must divide a minibatch."""
    minibatches: int = Field(1, ge=1)
    """Parts of a batch of dialogues, with an optimiser step for each."""
    iterations: int = Field(1, ge=1)
    """How often a batch is learnt from."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak of AdamW's rate."""
    warmup_steps: int = Field(3, ge=0)
    """Steps in which the rate rises."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the rate does after the rise."""
    epsilon: float = Field(0.2, gt=0)
    """Clipping of the probability ratio."""
    beta: float = Field(0.0, ge=0)
    """Weight of the divergence from the policy as it began."""
    entropy: float = Field(0.0, ge=0)
    """Weight of a bonus for entropy."""
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"
    """How token losses are averaged."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose spread the advantages are divided by; PPO takes that of the batch's tokens."""
    skip_tied: bool = False
    """Leave groups whose rewards are all equal out of the loss, and out of its mean."""
    curriculum: int = Field(0, ge=0)
    """Steps over which dialogues grow from one turn to their full length; 0 has none."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Clipping of the gradient."""
    bf16: bool = False
    """Half-precision arithmetic in the loss; faster where the processor has it."""
    max_errored: float = Field(0.1, ge=0, le=1)
    """Share of dialogues without a score, of one batch, beyond which the run stops."""


class PpoSettings(Section):
    """The critic of proximal policy optimisation, and how its values become advantages."""

    learning_rate: float = Field(3e-4, gt=0)
    """Of the critic's AdamW."""
    warmup_steps: int = Field(0, ge=0)
    """Batches in which that rate rises."""
    passes: int = Field(16, ge=1)
    """How often the critic learns from a batch, before the policy does."""
    learn_trunk: bool = False
    """Whether its copy of the policy learns as well, and not its head alone: dear in memory, and
    every pass costs as much as one of the policy."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount for each token of the policy."""
    lam: float = Field(0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation (arXiv 1506.02438), by token of the policy."""
    value_clip: float = Field(0.2, gt=0)
    """How far a value may move from the one the batch began with before its loss is cut."""


class EvalSettings(Section):
    """What is measured before and after."""

    scenarios: str = "test"
    """A shipped split, or a file of scenarios, none of which is trained on."""
    number: int = Field(100, ge=1)
    """How many of them, from the first."""
    sentences: Path | None = None
    """A second file of scenarios, such as people's own sentences."""
    batch: int = Field(50, ge=1)
    """Dialogues at a time."""
    every: int = Field(0, ge=0)
    """Optimiser steps between evaluations on the way, by which the best checkpoint is kept; 0
    evaluates between stages only, and keeps the last."""


class TrainConfig(Section):
    """Everything a run follows from."""

    run: RunSettings = RunSettings()
    """Where a run goes, what it grows from, and what it keeps."""
    policy: PolicySettings = PolicySettings()
    """Who learns, and how it speaks."""
    world: WorldSettings = WorldSettings()
    """Whom the policy learns from."""
    reward: RewardSettings = RewardSettings()
    """What is learnt for."""
    warmup: WarmupSettings = WarmupSettings()
    """Learning from others."""
    improve: ImproveSettings = ImproveSettings()
    """Learning from oneself."""
    rl: RlSettings = RlSettings()
    """Reinforcement learning."""
    ppo: PpoSettings = PpoSettings()
    """The critic."""
    eval: EvalSettings = EvalSettings()
    """What is measured before and after."""


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """The settings of a TOML file, changed by overrides like "rl.steps=20".

    A file whose name ends in ".json" is read as JSON, as a run directory keeps it.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is out of range.
    """
    return settings(_read(path) if path else {}, overrides, source=str(path or "defaults"))


def settings(
    tables: Mapping[str, Any], overrides: Sequence[str] = (), source: str = "settings"
) -> TrainConfig:
    """Settings from nested tables, changed by overrides.

    Raises:
        ConfigError: a key is unknown, or a value is out of range.
    """
    found = {key: (value, source) for key, value in _flat(tables)}
    for override in overrides:
        key, value = _assignment(override)
        found[key] = (value, f"--set {override}")
    for key, (_, place) in found.items():
        _check_key(key, place)
    return _validated(found)


def keys() -> Iterator[str]:
    """Every known key, as in "rl.steps"."""
    for section, field in TrainConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        yield from (f"{section}.{name}" for name in field.annotation.model_fields)


def _read(path: Path) -> dict[str, Any]:
    kind, parse = ("JSON", json.loads) if path.suffix == ".json" else ("TOML", tomllib.loads)
    try:
        tables = parse(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not {kind}: {error}") from error
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: expected tables of settings, got {tables!r:.60}")
    return tables


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _assignment(override: str) -> tuple[str, Any]:
    """A key and its value, read as TOML and otherwise taken as text."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"expected --set section.key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return key.strip(), value


def _check_key(key: str, place: str) -> None:
    known = list(keys())
    if key in known or key in TrainConfig.model_fields:
        return
    raise ConfigError(f"{place}: no setting {key!r}; {_hint(key, known)}")


def _hint(key: str, known: Sequence[str]) -> str:
    """The nearest known key, or the keys of the section meant."""
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    if best := get_close_matches(key, same or known, n=1, cutoff=0.0 if same else 0.6):
        return f"did you mean {best[0]!r}?"
    near_name = get_close_matches(last, [k.rpartition(".")[2] for k in known], n=1)
    if near_name:
        return f"did you mean {next(k for k in known if k.endswith('.' + near_name[0]))!r}?"
    section = key.partition(".")[0]
    inside = [k for k in known if k.startswith(section + ".")]
    return f"known: {', '.join(inside or TrainConfig.model_fields)}"


def _validated(found: Mapping[str, tuple[Any, str]]) -> TrainConfig:
    tables: dict[str, Any] = {}
    for key, (value, place) in found.items():
        section, _, name = key.partition(".")
        if not name:
            _refuse_bare(section, value, place)
            continue
        tables.setdefault(section, {})[name] = value
    try:
        config = TrainConfig.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(_first(error, found)) from error
    _check_batch(config)
    return config


def _refuse_bare(section: str, value: object, place: str) -> None:
    if value != {}:
        raise ConfigError(f"{place}: {section!r} is a table of settings, got {value!r}")


def _first(error: ValidationError, found: Mapping[str, tuple[Any, str]]) -> str:
    """One line for the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"][:2]))
    value, place = found.get(key, (first["input"], "settings"))
    wish = first["msg"].removeprefix("Input ")
    return f"{place}: {key} {wish}, got {value!r}"


def _check_batch(config: TrainConfig) -> None:
    rl = config.rl
    if rl.algorithm == "grpo" and rl.group < 2:
        raise ConfigError("rl.group must be 2 or more with grpo, got 1: only ppo goes without")
    total = rl.prompts_per_step * rl.group
    _divides("rl.minibatches", rl.minibatches, "prompts_per_step * group", total)
    _divides("rl.micro_batch", rl.micro_batch, "a minibatch of dialogues", total // rl.minibatches)
    for name in ("warmup", "improve"):
        sft: SftSettings = getattr(config, name)
        _divides(f"{name}.micro_batch", sft.micro_batch, f"{name}.dialogues", sft.dialogues)
    if rl.group == 1 and rl.prompts_per_step % 2:
        raise ConfigError(f"rl.prompts_per_step must be even, got {rl.prompts_per_step}")
    if rl.algorithm == "ppo" and config.reward.credit == "centred":
        raise ConfigError("reward.credit 'centred' is a group's: with ppo take 'turn'")
    if rl.sampler == "vllm" and config.run.workers > 1:
        raise ConfigError("rl.sampler 'vllm' needs run.workers = 1: its engine serves one process")
    _check_workers(config)
    updates = rl.minibatches * rl.iterations
    for name, number in (("rl.steps", rl.steps), ("rl.curriculum", rl.curriculum)):
        if number % updates:
            raise ConfigError(
                f"{name} must be a multiple of the {updates} steps on a batch, got {number}"
            )


def _check_workers(config: TrainConfig) -> None:
    """Each worker needs its part of a backward pass, and whole groups."""
    stages, rl = set(config.run.stages), config.rl
    shares = {f"{name}.micro_batch": getattr(config, name).micro_batch for name in sorted(stages)}
    if "rl" in stages:
        pairs = rl.prompts_per_step // 2
        key = "half of rl.prompts_per_step" if rl.group == 1 else "rl.prompts_per_step"
        shares[key] = pairs if rl.group == 1 else rl.prompts_per_step
    for key, number in shares.items():
        _divides("run.workers", config.run.workers, key, number)


def _divides(key: str, value: int, whole: str, total: int) -> None:
    if total % value:
        good = [n for n in _divisors(total) if n <= value]
        raise ConfigError(f"{key} must divide {whole} = {total}, got {value}; try {good[-1]}")


def _divisors(number: int) -> Iterable[int]:
    return (n for n in range(1, number + 1) if number % n == 0)
