"""A training run: its directory, its evaluation before and after, its report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartloop import config as settings
from heartloop.config import TrainConfig
from heartloop.env.play import Task, World
from heartloop.env.record import EpisodeWriter
from heartloop.env.threads import world
from heartloop.errors import ConfigError, InvalidInput, MissingExtra, OutputRefused, extra
from heartloop.policy.base import make_policy
from heartloop.policy.evals import report
from heartloop.policy.evals.report import Comparison
from heartloop.policy.model import LanguageModel, ModelPolicy
from heartloop.policy.train import checkpoint
from heartloop.policy.train.screen import Screen
from heartloop.rewards import reward
from heartloop.simusers import dynamics
from heartloop.simusers.registry import at_once, make_user
from heartloop.simusers.scenario import scenarios
from heartloop.types import Scenario

if TYPE_CHECKING:
    from rich.console import Console

_LOG = logging.getLogger(__name__)
CONFIG, LOG = "config.json", "train.log"
"""What lies in a run directory, besides metrics.jsonl, episodes.jsonl, the evaluations and a
checkpoint."""
EVAL_SEED = 0
"""Of the users of every evaluation, so that runs with other seeds can be compared."""
MAY_DIFFER = {"run.out", "run.threads", "world.actors"}
"""Settings that change no result, and may be others when a run is resumed."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to."""

    folder: Path
    policy: str
    seconds: float
    test: Comparison | None
    sentences: Comparison | None
    """None without `eval.sentences`."""
    report: Path | None
    """None where the libraries for it are not installed."""


def train(
    config: TrainConfig, *, resume: bool = False, console: Console | None = None
) -> RunResult:
    """Evaluate, train, evaluate again and report, in the directory `config.run.out`.

    Args:
        config: Everything the run follows from.
        resume: Go on with the run in the directory instead of refusing it.
        console: Where progress is shown; None for the standard error stream.

    Raises:
        ConfigError: a setting does not fit, or is not that of the run resumed.
        OutputRefused: the directory is in use or cannot be written.
        TrainingFailure: the run had to stop.
    """
    began = time.perf_counter()
    cast = _Cast(config)
    out = claim(config, resume)
    speaker = cast.speaker(checkpoint.newest(out) if resume else None)
    with _logging(out / LOG), cast.world() as world, Screen(config, console) as screen:
        stage = _Stage(config, cast, speaker, world, out)
        stage.evaluate("before", 0, screen)
        stage.learn(screen)
        stage.evaluate("after", config.grpo.steps, screen)
        result = _result(config, began)
    found = {"test": result.test, "sentences": result.sentences}
    screen.close(found, f"{result.seconds:.0f} s; {result.report or result.folder}")
    return result


class _Cast:
    """Everyone a run needs, found before anything is written."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._rules = dynamics.preset(config.world.preset)
        self.make_user = partial(make_user, config.world.user, self._rules)
        self.make_user()
        self.reward = reward(config.reward.spec)
        self.learners = scenarios(config.world.scenarios)
        self.sets = dict(_evaluation_sets(config))
        for name, rows in self.sets.items():
            _check_unseen(name, rows, self.learners)
        self._policy = _load(config)

    def speaker(self, folder: Path | None) -> LanguageModel:
        """The model as it begins, or as a checkpoint left it."""
        if folder is None:
            return self._policy.model
        return LanguageModel.load(folder, thinking=self._config.policy.think)

    def world(self) -> AbstractContextManager[World]:
        """Where the users live."""
        several = at_once(self._config.world.user)
        if not self._config.world.actors:
            return nullcontext(world(self.make_user, several))
        from heartloop.policy.parallel import RayWorld

        return RayWorld(self.make_user, self._config.world.actors, several)


def _load(config: TrainConfig) -> ModelPolicy:
    """The policy to train, at the beginning."""
    try:
        import torch
        from transformers.utils import logging as their_logging
    except ImportError as cause:
        raise extra("train", cause) from cause
    their_logging.disable_progress_bar()
    torch.set_num_threads(config.run.threads)
    policy = make_policy(config.policy.spec, thinking=config.policy.think)
    if not isinstance(policy, ModelPolicy):
        raise ConfigError(
            f"policy.spec {config.policy.spec!r} cannot learn: expected a language model, "
            "such as 'seedling' or 'hf:PATH'"
        )
    return policy


def _evaluation_sets(config: TrainConfig) -> Iterator[tuple[str, Sequence[Scenario]]]:
    chosen = config.eval
    yield "eval", scenarios(chosen.scenarios)[: chosen.number]
    if chosen.sentences:
        yield "sentences", scenarios(chosen.sentences)[: chosen.number]


def _check_unseen(name: str, rows: Sequence[Scenario], learners: Sequence[Scenario]) -> None:
    seen = {s.id for s in learners} & {s.id for s in rows}
    if seen:
        raise ConfigError(
            f"eval set {name!r} shares {len(seen)} scenarios with world.scenarios, "
            f"such as {min(seen)!r}: evaluate on others than those trained on"
        )


def claim(config: TrainConfig, resume: bool) -> Path:
    """The run directory, made for a new run or found for one to resume.

    Raises:
        OutputRefused: it holds files already, or cannot be written.
        InvalidInput: there is nothing to resume.
        ConfigError: the run to resume has other settings.
    """
    out = config.run.out
    if resume:
        _check_same(config, out)
        return out
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputRefused(f"{out} exists already: choose another run.out, or resume it")
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).write_text(config.model_dump_json(indent=1) + "\n", "utf-8")
    except OSError as error:
        raise OutputRefused(f"cannot write {out}: {error.strerror}") from error
    return out


def _check_same(config: TrainConfig, out: Path) -> None:
    if not (out / CONFIG).exists():
        raise InvalidInput(f"{out} holds no run to resume: expected {CONFIG} in it")
    old, new = _by_key(settings.load(out / CONFIG)), _by_key(config)
    other = [key for key in old if old[key] != new[key] and key not in MAY_DIFFER]
    if other:
        raise ConfigError(
            f"{out} was begun with {other[0]} = {old[other[0]]!r}, got {new[other[0]]!r}: "
            "resume with the same settings, or choose another run.out"
        )


def _by_key(config: TrainConfig) -> Mapping[str, Any]:
    return {
        f"{section}.{key}": value
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
    }


class _Stage:
    """A run under way."""

    def __init__(
        self, config: TrainConfig, cast: _Cast, speaker: LanguageModel, world: World, out: Path
    ) -> None:
        self._config, self._cast, self._world, self._out = config, cast, world, out
        self._speaker = speaker

    def evaluate(self, when: str, step: int, screen: Screen) -> None:
        """Play every set that is not played yet."""
        for name, rows in self._cast.sets.items():
            if not self._file(name, when).exists():
                self._play(name, when, rows, f"{self._config.run.name}@{step}", screen)

    def _file(self, name: str, when: str) -> Path:
        return self._out / f"{name}-{when}.jsonl"

    def _play(
        self, name: str, when: str, rows: Sequence[Scenario], policy: str, screen: Screen
    ) -> None:
        """Play one set; its file appears when it is complete."""
        from heartloop.policy.train.rollout import Driver

        path = self._file(name, when)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        limit, temperature = self._config.policy.max_new_tokens, self._config.policy.temperature
        driver = Driver(self._world, self._speaker, self._cast.reward, limit, temperature)
        size = self._config.eval.batch
        with EpisodeWriter(part) as writer:
            for start in range(0, len(rows), size):
                tasks = [Task(scenario, EVAL_SEED) for scenario in rows[start : start + size]]
                writer.write(*(r.episode for r in driver.play(tasks, policy)))
                screen.note(f"{name} {when}: {start + len(tasks)}/{len(rows)} dialogues")
        part.rename(path)

    def learn(self, screen: Screen) -> None:
        """Train."""
        from heartloop.policy.train.grpo import train_grpo

        train_grpo(
            self._config, self._speaker, self._world, self._cast.learners, self._out, screen.step
        )


def _result(config: TrainConfig, began: float) -> RunResult:
    """Both evaluations side by side, and the report."""
    run = report.load_run(config.run.out)
    page: Path | None = None
    try:
        page = report.write_report(config.run.out, replace=True)
    except MissingExtra as missing:
        _LOG.warning("no report: %s", missing)
    return RunResult(
        folder=config.run.out,
        policy=f"{config.run.name}@{config.grpo.steps}",
        seconds=round(time.perf_counter() - began, 1),
        test=run.test,
        sentences=run.sentences,
        report=page,
    )


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Keep in a file what heartloop and the libraries below it say, warnings included."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    names = ("heartloop", "trl", "transformers", "py.warnings")
    loggers = [logging.getLogger(name) for name in names]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
