"""The report of a training run: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from heartloop.env.record import read
from heartloop.errors import InvalidInput, OutputRefused, extra
from heartloop.policy.evals import figures, transcripts
from heartloop.policy.evals.evaluate import Summary, is_errored, replies, summary
from heartloop.policy.evals.stats import Interval, distinct, paired
from heartloop.types import Episode

LEAST_DISTINCT, MOST_COMMON = 0.6, 0.05
"""Signs of collapse: distinct-2 below this share of what it was, one reply above this share."""
_TRACES = ("loss", "entropy", "kl", "clipped", "grad_norm", "learning_rate", "reward_std",
           "tied_groups", "reply_words", "distinct_2", "errored", "seconds")  # fmt: skip
_PACKAGES = ("heartloop", "torch", "transformers", "trl", "ray", "gymnasium", "numpy")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run directory holds; what is missing is empty."""

    folder: Path
    config: Row
    metrics: list[Row]
    episodes: list[Episode]
    test: Comparison | None
    sentences: Comparison | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same evaluation before and after training."""

    before: Summary
    after: Summary
    pairs: list[tuple[Episode, Episode]]
    """Same scenario and seed, both scored."""
    lost: int
    """Scenarios left out because a dialogue of the two errored or is missing."""
    gain: Interval | None
    by_goal: dict[str, Interval] = field(default_factory=dict)
    by_group: dict[str, Interval] = field(default_factory=dict)
    distinct_kept: float = 1.0
    """Distinct-2 after over before, on the same number of words."""

    @property
    def collapsed(self) -> bool:
        """Whether variety was lost beyond what is allowed."""
        return self.distinct_kept < LEAST_DISTINCT or self.after.commonest_share > MOST_COMMON


def write_report(run_dir: Path, out: Path | None = None, *, replace: bool = False) -> Path:
    """Write the report of a run directory.

    Args:
        run_dir: Made by a training run; files that are not there leave their section out.
        out: Where to write; None for `report.html` in the run directory.
        replace: Whether a report that is there already may be written anew.

    Raises:
        InvalidInput: the directory holds no run.
        RecordError: a line of one of its files is broken.
        OutputRefused: the path exists and `replace` is off, or it cannot be written.
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    path = out or run_dir / "report.html"
    if path.exists() and not replace:
        raise OutputRefused(f"{path} exists: give another name for the report")
    html = render(load_run(run_dir))
    try:
        with path.open("w" if replace else "x", encoding="utf-8") as file:
            file.write(html)
    except OSError as error:
        raise OutputRefused(f"cannot write {path}: {error.strerror}") from error
    return path


def load_run(folder: Path) -> Run:
    """Read a run directory.

    Raises:
        InvalidInput: it is none.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise InvalidInput(f"{folder} is not a run directory: expected config.json in it")
    return Run(
        folder=folder,
        config=_json(config.read_text("utf-8"), config),
        metrics=_rows(folder / "metrics.jsonl"),
        episodes=_episodes(folder / "episodes.jsonl"),
        test=_comparison(folder, "eval"),
        sentences=_comparison(folder, "sentences"),
    )


def _json(text: str, place: object) -> Row:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{place}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"{place}: expected an object, got {found!r:.60}")
    return found


def _rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    lines = path.read_text("utf-8").splitlines()
    return [_json(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def _episodes(path: Path) -> list[Episode]:
    return [episode for _, episode in read(path)] if path.exists() else []


def _comparison(folder: Path, name: str) -> Comparison | None:
    before = _episodes(folder / f"{name}-before.jsonl")
    after = _episodes(folder / f"{name}-after.jsonl")
    return compare(before, after) if before and after else None


def compare(before: Sequence[Episode], after: Sequence[Episode]) -> Comparison:
    """Hold two evaluations on the same scenarios against each other.

    Raises:
        InvalidInput: they are of different users or presets.
    """
    summary([*before, *after])  # refuses to mix kinds
    earlier = {(e.scenario.id, e.seed): e for e in before if not is_errored(e)}
    later = {(e.scenario.id, e.seed): e for e in after if not is_errored(e)}
    pairs = [(earlier[key], later[key]) for key in earlier if key in later]
    everyone = {(e.scenario.id, e.seed) for e in (*before, *after)}
    return Comparison(
        before=summary(before),
        after=summary(after),
        pairs=pairs,
        lost=len(everyone) - len(pairs),
        gain=_gain(pairs) if pairs else None,
        by_goal=_gains(pairs, "goal"),
        by_group=_gains(pairs, "group"),
        distinct_kept=_kept(replies(before), replies(after)),
    )


def _kept(before: Sequence[str], after: Sequence[str]) -> float:
    """Distinct-2 after over before, each on as many words as the shorter of the two has."""
    words = [" ".join(texts).split() for texts in (before, after)]
    size = min(map(len, words))
    was, now = (distinct([" ".join(text[:size])]) for text in words)
    return now / was if was else 1.0


def _gain(pairs: Iterable[tuple[Episode, Episode]]) -> Interval:
    before, after = zip(*((b.final, a.final) for b, a in pairs), strict=True)
    return paired(before, after)


def _gains(pairs: Iterable[tuple[Episode, Episode]], key: str) -> dict[str, Interval]:
    return {name: _gain(group) for name, group in _grouped(pairs, key).items()}


def _grouped(
    pairs: Iterable[tuple[Episode, Episode]], key: str
) -> dict[str, list[tuple[Episode, Episode]]]:
    """Pairs by hidden goal or persona group, in the order of their names."""
    groups: dict[str, list[tuple[Episode, Episode]]] = {}
    for pair in pairs:
        groups.setdefault(str(getattr(pair[0].scenario, key)), []).append(pair)
    return dict(sorted(groups.items()))


def render(run: Run) -> str:
    """The page.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as cause:
        raise extra("report", cause) from cause
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"signed": _signed, "percent": _percent, "number": _number}
    text = files("heartloop.policy.evals").joinpath("report.html.j2").read_text(encoding="utf-8")
    page: str = environment.from_string(text).render(
        run=run, figures=_figures(run), provenance=_provenance(run), gap=_gap(run),
        shown={"test": _shown(run.test), "sentences": _shown(run.sentences)},
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
        least_distinct=LEAST_DISTINCT, most_common=MOST_COMMON,
    )  # fmt: skip
    return page


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def _number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}"


def _shown(comparison: Comparison | None) -> list[transcripts.Pair]:
    return transcripts.choose(comparison.pairs) if comparison else []


def _gap(run: Run) -> Interval | None:
    """Mean gain on sentences minus mean gain on the test pack; a normal interval, unpaired."""
    test = run.test.gain if run.test else None
    other = run.sentences.gain if run.sentences else None
    if not test or not other:
        return None
    mean, se = other.mean - test.mean, math.hypot(test.se or 0, other.se or 0)
    return Interval(
        mean=mean, low=mean - 1.96 * se, high=mean + 1.96 * se, se=se, n=min(test.n, other.n)
    )


def _figures(run: Run) -> dict[str, Any]:
    """Every figure that the run has data for, safe to inline."""
    from markupsafe import Markup

    drawn: dict[str, str] = {}
    if steps := by_step(run):
        drawn["curve"] = figures.learning_curve([_finals(step) for step in steps])
    if scored := _parts(steps):
        drawn["parts"] = figures.panels(scored, "reward parts")
    if traces := _traces(run.metrics):
        drawn["traces"] = figures.panels(traces, "training traces")
    for name, comparison in (("test", run.test), ("sentences", run.sentences)):
        if comparison and comparison.pairs:
            before = [b.final for b, _ in comparison.pairs]
            after = [a.final for _, a in comparison.pairs]
            drawn[name] = figures.distribution(before, after, f"final emotion, {name}")
    if run.test and run.test.pairs:
        for key in ("goal", "group"):
            drawn[key] = figures.courses(_sides(run.test.pairs, key), f"emotion by {key}")
    return {name: Markup(svg) for name, svg in drawn.items()}


def _sides(
    pairs: Iterable[tuple[Episode, Episode]], key: str
) -> dict[str, tuple[list[Episode], list[Episode]]]:
    groups = _grouped(pairs, key)
    return {n: ([b for b, _ in group], [a for _, a in group]) for n, group in groups.items()}


def by_step(run: Run) -> list[list[Episode]]:
    """Training episodes, in the batches in which they were played."""
    rl = run.config.get("rl", {})
    size = int(rl.get("prompts_per_step", 4)) * int(rl.get("group", 8))
    episodes = run.episodes
    return [episodes[at : at + size] for at in range(0, len(episodes), size)]


def _finals(episodes: Iterable[Episode]) -> list[float]:
    return [e.final for e in episodes if not is_errored(e)]


def _parts(steps: Sequence[Sequence[Episode]]) -> dict[str, figures.Series]:
    """The reward and its parts over training; episodes without a score enter nothing."""
    values: dict[str, list[list[float]]] = {"reward": [[] for _ in steps]}
    for at, step in enumerate(steps):
        for score in (e.score for e in step if e.score and e.score.value is not None):
            shown = {n: v for n, v in score.parts.items() if "turn_" not in n}
            for name, value in {"reward": score.value or 0.0, **shown}.items():
                values.setdefault(name, [[] for _ in steps])[at].append(value)
    smooth = {name: figures.smoothed(rows) for name, rows in values.items()}
    return {name: series for name, series in smooth.items() if series}


def _traces(metrics: Sequence[Row]) -> dict[str, figures.Series]:
    """What was logged at each step, where it ever changes."""
    traces: dict[str, figures.Series] = {}
    for name in _TRACES:
        rows = [(n, row) for n, row in enumerate(metrics, 1) if _is_number(row.get(name))]
        if len({row[name] for _, row in rows}) > 1:
            traces[name] = [(float(row.get("step", n)), _point(row[name])) for n, row in rows]
    return traces


def _point(value: float) -> Interval:
    return Interval(mean=value, low=value, high=value, se=None, n=1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _provenance(run: Run) -> dict[str, str]:
    """Where the figures come from."""
    shown = {"run directory": run.folder.name, "Python": platform.python_version()}
    some = run.test.pairs[0] if run.test and run.test.pairs else None
    if some:
        shown |= {
            "simulated user": some[0].user,
            "preset": some[0].preset,
            "evaluation seed": str(some[0].seed),
            "policy before": some[0].policy,
            "policy after": some[1].policy,
            "reward": some[0].reward,
        }
    seed = _at(run.config, "run", "seed")
    shown |= {"training seed": str(seed)} if seed is not None else {}
    return shown | {name: version for name in _PACKAGES if (version := _version(name))}


def _at(tree: Mapping[str, Any], *path: str) -> Any:
    for key in path:
        tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
    return tree if tree != {} else None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
