"""Checkpoints: a model folder with the optimiser's state, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from heartloop.errors import InvalidInput

OPTIMISER, STATE = "optimizer.safetensors", "state.json"


def save(
    folder: Path, parts: Iterable[Callable[[Path], None]], optimiser: Any, state: dict[str, Any]
) -> None:
    """Write a checkpoint that `load_optimiser`, `read_state` and `LanguageModel.load` read back.

    Args:
        folder: Is replaced when it exists.
        parts: Each writes its own files into the folder it is given.
        optimiser: Its tensors, by number of parameter; None leaves them out.
        state: Anything else, JSON-ready.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for write in parts:
        write(part)
    if optimiser is not None:
        save_optimiser(part / OPTIMISER, optimiser)
    (part / STATE).write_text(json.dumps(state), "utf-8")
    for path in part.iterdir():
        _flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before anything that relies on it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_optimiser(path: Path, optimiser: Any) -> None:
    """Write an optimiser's tensors."""
    import torch
    from safetensors.torch import save_file

    tensors = {
        f"{number}.{key}": torch.as_tensor(value).contiguous()
        for number, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
    }
    save_file(tensors, str(path))


def load_optimiser(path: Path, optimiser: Any) -> None:
    """Bring an optimiser over the same parameters to the state of a file."""
    from safetensors.torch import load_file

    state: dict[int, dict[str, Any]] = {}
    for name, tensor in load_file(str(path)).items():
        number, key = name.split(".")
        state.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def read_state(folder: Path) -> dict[str, Any]:
    """What was saved beside the tensors.

    Raises:
        InvalidInput: the folder is no checkpoint of a training run.
    """
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{folder} is no checkpoint: expected {STATE} ({error})") from error
    return state


def newest(run: Path) -> Path | None:
    """The last whole checkpoint of a run directory."""
    found = numbered(run)
    return found[-1] if found else None


def numbered(run: Path) -> list[Path]:
    """The whole checkpoints of a run directory, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def keep(run: Path, last: int, best: str = "") -> None:
    """Delete the checkpoints of a run but the last ones, and the one called `best`."""
    for path in numbered(run)[:-last]:
        if path.name != best:
            shutil.rmtree(path, ignore_errors=True)
