"""Checkpoints: a model folder with the optimiser's state, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from heartloop.errors import InvalidInput
from heartloop.policy.train.rollout import Speaker

OPTIMISER, STATE = "optimizer.safetensors", "state.json"


def save(folder: Path, speaker: Speaker, optimiser: Any, state: dict[str, Any]) -> None:
    """Write a checkpoint that `load_optimiser` and `LanguageModel.load` read back.

    Args:
        folder: Is replaced when it exists.
        speaker: The model and its tokenizer.
        optimiser: Its tensors, by number of parameter.
        state: Anything else, JSON-ready.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_model(part, speaker)
    _save_optimiser(part / OPTIMISER, optimiser)
    (part / STATE).write_text(json.dumps(state), "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def save_model(folder: Path, speaker: Speaker) -> None:
    """Write model and tokenizer as a folder that transformers loads."""
    speaker.model.save_pretrained(folder)
    speaker.tokenizer.save_pretrained(folder)


def _save_optimiser(path: Path, optimiser: Any) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {
        f"{number}.{key}": torch.as_tensor(value).contiguous()
        for number, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
    }
    save_file(tensors, str(path))


def load_optimiser(folder: Path, optimiser: Any) -> None:
    """Bring an optimiser over the same parameters to the state of a checkpoint."""
    from safetensors.torch import load_file

    state: dict[int, dict[str, Any]] = {}
    for name, tensor in load_file(str(folder / OPTIMISER)).items():
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
    found = {
        int(number): path
        for path in run.glob("checkpoint-*")
        if (number := path.name.removeprefix("checkpoint-")).isdigit()
    }
    return found[max(found)] if found else None


def keep_only(folder: Path) -> None:
    """Delete the other checkpoints of the same run."""
    for path in folder.parent.glob("checkpoint-*"):
        if path != folder:
            shutil.rmtree(path, ignore_errors=True)
