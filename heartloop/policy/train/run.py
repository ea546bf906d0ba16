"""A training run: its directory, its evaluation before and after, its report."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from heartloop import config as settings
from heartloop.config import TrainConfig
from heartloop.env.play import Task, World
from heartloop.env.record import EpisodeWriter, read
from heartloop.env.threads import world
from heartloop.errors import ConfigError, InvalidInput, MissingExtra, OutputRefused
from heartloop.policy.base import make_policy
from heartloop.policy.evals import report
from heartloop.policy.evals.evaluate import evaluate
from heartloop.policy.evals.report import Comparison
from heartloop.policy.model import LanguageModel
from heartloop.policy.train import checkpoint, learner, ranks, sft
from heartloop.policy.train.plan import plan
from heartloop.policy.train.screen import Screen
from heartloop.policy.train.session import METRICS, Session
from heartloop.rewards import reward
from heartloop.simusers import dynamics
from heartloop.simusers.registry import at_once, make_user
from heartloop.simusers.scenario import scenarios
from heartloop.types import Episode, Scenario

if TYPE_CHECKING:
    from rich.console import Console

_LOG = logging.getLogger(__name__)
CONFIG, LOG = "config.json", "train.log"
"""What lies in a run directory, besides metrics.jsonl, episodes.jsonl, the evaluations and a
checkpoint."""
EVAL_SEED = 0
"""Of the users of every evaluation, so that runs with other seeds can be compared."""
MAY_DIFFER = {"run.out", "run.threads", "run.keep", "run.report_to", "world.actors"}
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
    cast, screen = _Cast(config), Screen(config, console)
    if config.run.workers > 1:
        _together(config, resume, screen)
    else:
        _work(cast, resume, screen)
    result = _result(config, began)
    found = {"test": result.test, "sentences": result.sentences}
    screen.close(found, f"{result.seconds:.0f} s; {result.report or result.folder}")
    return result


def _work(cast: _Cast, resume: bool, screen: Screen) -> None:
    """A run, or one process's part of it."""
    config = cast.config
    speaker = learner.load(config, checkpoint.newest(config.run.out) if resume else None)
    if ranks.rank() == 0:
        claim(config, resume)
    ranks.wait()
    log = _logging(config.run.out / LOG) if ranks.rank() == 0 else nullcontext()
    with log, cast.world() as world, screen:
        run = _Run(config, cast, speaker, world, screen)
        try:
            run.evaluate("before")
            run.learn()
            run.evaluate("after")
        finally:
            run.session.close()


def _together(config: TrainConfig, resume: bool, screen: Screen) -> None:
    """A run on several workers."""
    from heartloop.policy.workers import run_workers

    run = config.run.model_copy(update={"out": config.run.out.absolute()})
    config = config.model_copy(update={"run": run})
    # The first worker claims the directory; to be told of a mistake nobody should wait for Ray.
    if resume:
        _check_same(config, run.out)
    else:
        _check_free(run.out)
    with screen, screen.following(run.out / METRICS):
        run_workers(_join, (config, resume, Path.cwd()), run.workers)


def _join(given: tuple[TrainConfig, bool, Path]) -> None:
    """What each worker does."""
    from rich.console import Console

    config, resume, folder = given
    if folder.exists():
        os.chdir(folder)
    _work(_Cast(config), resume, Screen(config, Console(quiet=True)))


def dry_run(config: TrainConfig) -> dict[str, int]:
    """Check everything that a run needs, and say what it will take; nothing is written.

    Raises:
        ConfigError: a setting does not fit.
        OutputRefused: the directory is in use.
    """
    cast = _Cast(config)
    _check_free(config.run.out)
    return plan(config, learner.load(config).model, cast.turns, len(cast.sets))


class _Cast:
    """Everyone a run needs, found before anything is written."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        _check_trackers(config)
        self._rules = dynamics.preset(config.world.preset)
        self.turns = self._rules.turns
        self.make_user = partial(make_user, config.world.user, self._rules)
        self.make_user()
        self.reward = reward(config.reward.spec)
        self.learners = scenarios(config.world.scenarios)
        self.sets = dict(_evaluation_sets(config))
        for name, rows in self.sets.items():
            _check_unseen(name, rows, self.learners)
        self.lessons: list[sft.Lesson] = []
        """What `warmup` learns from where a file is named."""
        if "warmup" in config.run.stages:
            if config.warmup.episodes:
                self.lessons = sft.read(config.warmup.episodes)
            else:
                make_policy(config.warmup.teacher)

    def world(self) -> AbstractContextManager[World]:
        """Where the users live."""
        several = at_once(self.config.world.user)
        if not self.config.world.actors:
            return nullcontext(world(self.make_user, several))
        from heartloop.policy.parallel import RayWorld

        return RayWorld(self.make_user, self.config.world.actors, several)


def _check_trackers(config: TrainConfig) -> None:
    for name in config.run.report_to:
        if find_spec(name) is None:
            raise ConfigError(f"run.report_to: {name} is not installed: pip install {name}")


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
        _check_free(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).write_text(config.model_dump_json(indent=1) + "\n", "utf-8")
    except OSError as error:
        raise OutputRefused(f"cannot write {out}: {error.strerror}") from error
    return out


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputRefused(f"{out} exists already: choose another run.out, or resume it")


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


class _Run:
    """A run under way."""

    def __init__(
        self, config: TrainConfig, cast: _Cast, speaker: LanguageModel, world: World,
        screen: Screen,
    ) -> None:  # fmt: skip
        self._config, self._cast, self._world, self._out = config, cast, world, config.run.out
        self._speaker, self._screen = speaker, screen
        self.session = Session(
            config, speaker, self._out, screen.step, self._on_the_way, ranks.rank() == 0
        )

    def evaluate(self, when: str) -> None:
        """Play every set that is not played yet."""
        for name, rows in self._cast.sets.items():
            path = self._out / f"{name}-{when}.jsonl"
            now = self._out / f"{name}-{self.session.state.total}.jsonl"
            if now.exists() and not path.exists():
                self._copy(now, path)
            elif not path.exists():
                policy = self.session.policy(self.session.state.step)
                tasks = [Task(scenario, EVAL_SEED) for scenario in rows]
                self._play(path, tasks, policy, self._speaker)

    def _copy(self, played: Path, path: Path) -> None:
        """Take over what the same policy played on the way."""
        if self.session.leads:
            shutil.copyfile(played, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        ranks.wait()

    def _on_the_way(self, total: int) -> float | None:
        """Mean final emotion with the people of the first set, in a file of its own."""
        name, rows = next(iter(self._cast.sets.items()))
        path = self._out / f"{name}-{total}.jsonl"
        path.unlink(missing_ok=True)
        tasks = [Task(scenario, EVAL_SEED) for scenario in rows]
        played = self._play(path, tasks, f"{self._config.run.name}@{total}", self._speaker)
        finals = [e.final for e in played if not e.error]
        return fmean(finals) if finals else None

    def _play(
        self, path: Path, tasks: Sequence[Task], policy: str, speaker: LanguageModel
    ) -> list[Episode]:
        """Play dialogues; their file appears when it is complete."""
        from heartloop.policy.train.rollout import Driver

        limit, temperature = self._config.policy.max_new_tokens, self._config.policy.temperature
        driver = Driver(self._world, speaker, self._cast.reward, limit, temperature)
        size = self._config.eval.batch
        played: list[Episode] = []
        training = speaker.model.training
        speaker.model.eval()
        for start in range(0, len(tasks), size):
            found = driver.play(ranks.own(tasks[start : start + size]), policy)
            played += ranks.gather([r.episode for r in found])
            self._screen.note(f"{path.stem}: {len(played)}/{len(tasks)} dialogues")
        speaker.model.train(training)
        if self.session.leads:
            part = path.with_suffix(".part")
            part.unlink(missing_ok=True)
            with EpisodeWriter(part) as writer:
                writer.write(*played)
            part.rename(path)
        ranks.wait()
        return played

    def learn(self) -> None:
        """Go through the stages that are left."""
        stages = self._config.run.stages
        kinds = {"warmup": self._warmup, "improve": self._improve, "rl": self._rl}
        while self.session.state.stage < len(stages):
            number = self.session.state.stage
            kinds[stages[number]]()
            if number + 1 == len(stages):
                return
            self.evaluate(f"stage-{number + 1}")
            self.session.next_stage()

    def _rl(self) -> None:
        from heartloop.policy.train.rl import train_rl

        train_rl(self.session, self._world, self._cast.learners)

    def _warmup(self) -> None:
        """Learn from a file of dialogues, or from another policy that plays."""
        chosen = self._config.warmup
        lessons = self._cast.lessons or self._taught()
        if self.session.state.step < chosen.steps:
            sft.learn(self.session, sft.select(lessons, chosen.least, chosen.best), chosen, 0)

    def _taught(self) -> list[sft.Lesson]:
        """What the teacher plays, from the file where it lies already."""
        path = self._out / f"warmup-{self.session.state.stage + 1}.jsonl"
        if self.session.leads and not path.exists():
            part = path.with_suffix(".part")
            part.unlink(missing_ok=True)
            world = self._cast.config.world
            evaluate(
                make_policy(self._config.warmup.teacher), self._people(self._config.warmup.people),
                user=world.user, preset=world.preset, reward=self._config.reward.spec,
                seed=self._config.run.seed, out=part,
            )  # fmt: skip
            part.rename(path)
        ranks.wait()
        return [episode for _, episode in read(path)]

    def _improve(self) -> None:
        """Round by round: play, keep what scores well, learn it."""
        chosen = self._config.improve
        for number in range(self.session.state.step // chosen.steps, chosen.rounds):
            begun = number * chosen.steps
            path = self._out / f"improve-{self.session.state.stage + 1}-{number + 1}.jsonl"
            if not path.exists():
                policy = self.session.policy(begun)
                self._play(path, self._samples(begun), policy, self._speaker)
            episodes = (episode for _, episode in read(path))
            sft.learn(self.session, sft.select(episodes, chosen.least, chosen.best), chosen, begun)

    def _samples(self, begun: int) -> list[Task]:
        """Dialogues of a round: each person several times, with a seed of its own."""
        from heartloop.policy.train.rl import user_seed

        chosen, stage = self._config.improve, self.session.state.stage
        people = self._people(chosen.people, begun)
        return [
            Task(person, user_seed(self._config.run.seed, 1_000_000 * (stage + 1) + begun), sample)
            for person in people
            for sample in range(chosen.samples)
        ]

    def _people(self, number: int, round_: int = 0) -> list[Scenario]:
        """So many of the scenarios trained on, in an order of this stage's own."""
        learners = self._cast.learners
        seed = f"{self._config.run.seed}:people:{self.session.state.stage}:{round_}"
        return [learners[at] for at in sft.order(len(learners), min(number, len(learners)), seed)]


def _result(config: TrainConfig, began: float) -> RunResult:
    """Both evaluations side by side, and the report."""
    run, last = report.load_run(config.run.out), checkpoint.newest(config.run.out)
    page: Path | None = None
    try:
        page = report.write_report(config.run.out, replace=True)
    except MissingExtra as missing:
        _LOG.warning("no report: %s", missing)
    return RunResult(
        folder=config.run.out,
        policy=f"{config.run.name}@{checkpoint.read_state(last)['total'] if last else 0}",
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
