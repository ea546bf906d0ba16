"""Both sides of the comparison with TRL play the same dialogues."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import trl_ratio

from heartloop.policy.model import LanguageModel
from tests.policy.train.conftest import folder, tokens  # noqa: F401


def test_a_step_of_either_says_as_many_tokens(folder, capsys):  # noqa: F811
    small = ["--dialogues", "4", "--micro-batch", "2", "--limit", "6"]
    asked = trl_ratio._arguments([*small, "--policy", f"hf:{folder}"])
    speaker = LanguageModel.load(folder)
    (own, said), (other, heard) = (arm(speaker, asked) for arm in (trl_ratio.ours, trl_ratio.stock))
    assert said == heard > 4
    assert own > 0 < other
