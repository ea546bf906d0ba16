"""The same function on several processes at once, joined for distributed training by Ray Train."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from heartloop.errors import HeartloopError, InvalidInput, TrainingFailure, extra
from heartloop.policy.parallel import find_ray, join_or_start

A = TypeVar("A")
PATIENCE = 86_400
"""Seconds that a worker waits for another one."""


def run_workers(
    function: Callable[[A], object], argument: A, number: int, *, gpu: bool | None = None
) -> None:
    """Call `function(argument)` in `number` processes that form one torch process group.

    Each has `torch.distributed` ready (gloo on CPUs, nccl on GPUs), its RANK and WORLD_SIZE in the
    environment, and one CPU, or one GPU, for itself. What it makes it must write; absolute paths.
    Joins the Ray cluster there is, as `RayWorld` does, or starts one and ends it.

    Args:
        function: What to do; nothing is given back.
        argument: What it is given.
        number: How many do it.
        gpu: Whether each needs a GPU; None gives it one where the cluster has any.

    Raises:
        MissingExtra: Ray or torch is not installed.
        InvalidInput: `number` is below 1, or more than the cluster holds.
        HeartloopError: a worker raised it; any other error comes as a `TrainingFailure`.
    """
    if number < 1:
        raise InvalidInput(f"expected at least 1 worker, got {number!r}")
    ray = find_ray()
    folder = join_or_start(ray, number)
    storage = Path(tempfile.mkdtemp(prefix="hl-train-"))
    try:
        on_gpu = ray.cluster_resources().get("GPU", 0) > 0 if gpu is None else gpu
        _check_room(ray, "GPU" if on_gpu else "CPU", number)
        _fit(function, argument, number, on_gpu, storage)
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        if folder:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _check_room(ray: ModuleType, kind: str, number: int) -> None:
    """Ray would wait for ever for what the cluster does not hold."""
    there = int(ray.cluster_resources().get(kind, 0))
    if there < number:
        raise InvalidInput(f"{number} workers need {number} {kind}s, the Ray cluster has {there}")


def _fit(
    function: Callable[[A], object], argument: A, number: int, gpu: bool, storage: Path
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    try:
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as cause:
        raise extra("train", cause) from cause

    def work(given: dict[str, Any]) -> None:
        function(given["argument"])

    # A worker that died must not begin again by itself: checkpoints are the trainer's business.
    run = RunConfig(storage_path=str(storage), failure_config=FailureConfig(max_failures=0))
    # Objects travel by processor. One may wait long for another's users; a death ends all at once.
    group = TorchConfig("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout_s=PATIENCE)
    trainer = TorchTrainer(
        work, train_loop_config={"argument": argument}, torch_config=group,
        scaling_config=ScalingConfig(num_workers=number, use_gpu=gpu), run_config=run,
    )  # fmt: skip
    try:
        trainer.fit()
    except Exception as error:
        raise _cause(error) from error


def _cause(error: Exception) -> HeartloopError:
    """What the workers failed of: an error of ours, a death, or what the first of them raised."""
    from ray.exceptions import RayActorError

    found = {
        rank: getattr(failure, "cause", None)
        or getattr(failure, "health_check_failure", None)
        or failure
        for rank, failure in sorted(getattr(error, "worker_failures", {}).items())
    }
    for inner in found.values():
        if isinstance(inner, HeartloopError):
            return inner
    # The others of its group fail too, of a connection that breaks.
    for rank, inner in found.items():
        if isinstance(inner, RayActorError):
            return TrainingFailure(
                f"worker {rank} died: its process was ended from outside, or for want of memory; "
                "what was saved is there to resume from"
            )
    for rank, inner in found.items():
        return TrainingFailure(f"worker {rank}: {type(inner).__name__}: {inner}")
    return TrainingFailure(f"the workers failed: {error}")
