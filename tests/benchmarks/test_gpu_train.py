"""What a GPU is measured with runs on a processor too."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_train

SMALL = ["--steps", "2", "--dialogues", "8", "--micro-batch", "4", "--limit", "6"]


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_tiny_model_is_trained_and_measured(capsys, algorithm):
    assert gpu_train.main(["--tiny", *SMALL, "--algorithm", algorithm]) == 0
    names, row = (line.split() for line in capsys.readouterr().out.strip().splitlines()[-2:])
    assert names[0] == "size" and row[0] == "tiny"
    weights, learn, *figures = (float(cell.replace(",", "")) for cell in row[1:])
    assert weights == learn > 100_000
    assert all(figure > 0 for figure in figures)


def test_without_a_gpu_the_large_sizes_are_refused(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_train.main([]) == 2
    assert "no GPU here: try --tiny" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "billions"), [("0.5b", 0.49), ("7b", 7.6)])
def test_the_sizes_have_as_many_weights_as_their_names_say(size, billions):
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**gpu_train.SHAPES[size]))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.02)


def test_the_larger_one_learns_by_adapters_with_little_memory(tmp_path):
    asked = gpu_train._arguments([])
    small, large = (gpu_train.recipe(size, asked, tmp_path) for size in ("0.5b", "7b"))
    assert (small.policy.lora, large.policy.lora) == (0, 16)
    assert small.rl.bf16 and large.rl.bf16 and large.policy.gradient_checkpointing
