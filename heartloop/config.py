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
    """Where a run goes and what it grows from."""

    name: str = "seedling"
    """Begins the policy's name in every episode."""
    out: Path = Path("runs/seedling")
    """The run directory; refused when it exists."""
    seed: int = Field(1, ge=0, lt=2**31)
    """Of scenarios' order, users, sampling and optimiser."""
    threads: int = Field(1, ge=1)
    """Of the policy's arithmetic. More than the free cores makes everything slower."""


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


class GrpoSettings(Section):
    """Group relative policy optimisation (arXiv 2402.03300)."""

    steps: int = Field(60, ge=0)
    """Optimiser steps."""
    prompts_per_step: int = Field(4, ge=1)
    """Different dialogues in a step."""
    group: int = Field(8, ge=2)
    """Samples of each dialogue; a group shares scenario, user, and the user's noise."""
    micro_batch: int = Field(16, ge=1)
    """Dialogues in one backward pass; must divide prompts_per_step * group."""
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
    """Whose spread the advantages are divided by."""
    iterations: int = Field(1, ge=1)
    """Optimiser steps on each batch of dialogues."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Clipping of the gradient."""
    bf16: bool = False
    """Half-precision arithmetic in the loss; faster where the processor has it."""
    max_errored: float = Field(0.1, ge=0, le=1)
    """Share of dialogues without a score, of one step, beyond which the run stops."""


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


class TrainConfig(Section):
    """Everything a run follows from."""

    run: RunSettings = RunSettings()
    """Where a run goes and what it grows from."""
    policy: PolicySettings = PolicySettings()
    """Who learns, and how it speaks."""
    world: WorldSettings = WorldSettings()
    """Whom the policy learns from."""
    reward: RewardSettings = RewardSettings()
    """What is learnt for."""
    grpo: GrpoSettings = GrpoSettings()
    """Group relative policy optimisation."""
    eval: EvalSettings = EvalSettings()
    """What is measured before and after."""


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """The settings of a TOML file, changed by overrides like "grpo.steps=20".

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
    """Every known key, as in "grpo.steps"."""
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
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    if best := same or near:
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
    grpo = config.grpo
    total = grpo.prompts_per_step * grpo.group
    if total % grpo.micro_batch:
        good = [n for n in _divisors(total) if n <= grpo.micro_batch]
        raise ConfigError(
            f"grpo.micro_batch must divide prompts_per_step * group = {total}, "
            f"got {grpo.micro_batch}; try {good[-1]}"
        )


def _divisors(number: int) -> Iterable[int]:
    return (n for n in range(1, number + 1) if number % n == 0)
