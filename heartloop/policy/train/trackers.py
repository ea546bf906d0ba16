"""Trackers, such as TensorBoard, that get the figures of every step too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from heartloop.config import TrainConfig
from heartloop.policy.train.metrics import Row


class Trackers:
    """Those of `run.report_to`, as transformers drives them; given what metrics.jsonl is given.

    A trainer's own reports would count the steps of each stage, and of each resumed part, from 1.
    """

    def __init__(self, config: TrainConfig, out: Path, model: Any) -> None:
        """Begin to report from a run directory on a model."""
        self._kinds: list[Any] = []
        if not config.run.report_to:
            return
        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.integrations import get_reporting_integration_callbacks

        class Arguments(TrainingArguments):  # type: ignore[misc]
            """Shows the settings of the run, not those of a trainer that there is not."""

            def to_dict(self) -> dict[str, Any]:
                return config.model_dump(mode="json")

        self._state, self._control = TrainerState(), TrainerControl()
        self._args = Arguments(
            output_dir=str(out), run_name=config.run.name, use_cpu=True, bf16=False,
            report_to=list(config.run.report_to),
        )  # fmt: skip
        found = get_reporting_integration_callbacks(list(config.run.report_to))
        self._kinds = [kind() for kind in found]
        self._each("on_train_begin", model=model)

    def log(self, row: Row) -> None:
        """Hand on the numbers of a row, as figures of its step."""
        if not self._kinds:
            return
        self._state.global_step = int(row["step"] or 0)
        numbers = {
            key: value
            for key, value in row.items()
            if isinstance(value, int | float) and math.isfinite(value) and key != "step"
        }
        for kind in self._kinds:  # some change what they are given
            kind.on_log(self._args, self._state, self._control, logs=dict(numbers))

    def close(self) -> None:
        """Have everything written, and let a later run of this process begin one of its own."""
        self._each("on_train_end")
        for kind in self._kinds:
            if wandb := getattr(kind, "_wandb", None):
                wandb.finish()  # the others end by themselves

    def _each(self, event: str, **given: Any) -> None:
        for kind in self._kinds:
            getattr(kind, event)(self._args, self._state, self._control, **given)
