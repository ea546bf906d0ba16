"""A GRPO step of heartloop against one of TRL as it comes, on the same model and dialogues.

    python benchmarks/trl_ratio.py [--policy seedling] [--dialogues 32] [--rounds 3]

Exits with 1 when a step of ours takes more than 1.1 of TRL's, by the median of several rounds in
which both take turns. A step is all of it: replies, users, loss, gradients, the optimiser, and what
is written down; its seconds are those of one processor, of which other load takes none. TRL drives
the dialogues by `rollout_func`, generating each turn from the whole context as its own examples do;
both draw the likeliest tokens, at a learning rate next to 0, so that the dialogues stay the same.
Beside them stands TRL's `environment_factory`, which cannot end a dialogue early and says so much
more that only its time by token compares.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from rollout_cost import MAKE, PLAIN, environment_trainer

from heartloop import config as settings
from heartloop.env.play import Dialogue, LocalWorld
from heartloop.policy.base import make_policy
from heartloop.policy.model import LanguageModel, ModelPolicy
from heartloop.policy.train.metrics import Row
from heartloop.policy.train.rl import train_rl
from heartloop.policy.train.session import Session
from heartloop.simusers.scenario import pack
from heartloop.types import Scenario

MOST = 1.1
STEPS = 2
"""Of which the last is timed; the first warms up."""
COLD = 1e-4
"""Temperature at which only the likeliest token is drawn."""
Measured = tuple[float, int]
"""Seconds of a step, and the tokens that the policy said in it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    asked = _arguments(argv)
    torch.set_num_threads(1)
    policy = make_policy(asked.policy, device="cpu")
    assert isinstance(policy, ModelPolicy), f"expected a language model, got {asked.policy!r}"
    arms: dict[str, Callable[[], Measured]] = {
        "heartloop": lambda: ours(policy.model, asked),
        "TRL rollout_func": lambda: stock(policy.model, asked),
        "TRL environment_factory": lambda: environment(policy.model, asked),
    }
    found: dict[str, list[Measured]] = {name: [] for name in arms}
    for _ in range(asked.rounds):
        for name, arm in arms.items():
            found[name].append(arm())
    print(f"{'':26}{'CPU s':>8}{'tokens':>8}{'ms/token':>10}")
    for name, rows in found.items():
        seconds, tokens = median(s for s, _ in rows), rows[-1][1]
        print(f"{name:26}{seconds:8.2f}{tokens:8}{1000 * seconds / tokens:10.3f}")
    own, other, _ = found.values()
    assert abs(own[-1][1] / other[-1][1] - 1) < 0.02, "the dialogues must be the same"
    ratio = median(a / b for (a, _), (b, _) in zip(own, other, strict=True))
    verdict = "within" if ratio <= MOST else "beyond"
    print(f"heartloop / TRL rollout_func: {ratio:.3f}, {verdict} {MOST}")
    return int(ratio > MOST)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="seedling")
    parser.add_argument("--dialogues", type=int, default=32, help="in a step, two by two the same")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--limit", type=int, default=40, help="tokens of a reply")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(argv)


def people(asked: argparse.Namespace) -> list[Scenario]:
    """Who is talked to in every step: one for two samples."""
    return list(pack("train")[: asked.dialogues // 2])


def ours(speaker: LanguageModel, asked: argparse.Namespace) -> Measured:
    """The last step of a run of heartloop."""
    with TemporaryDirectory() as folder:
        config = settings.settings(
            {
                "run": {"out": folder, "save_every": STEPS + 1},
                "policy": {"max_new_tokens": asked.limit, "temperature": COLD},
                "rl": {
                    "steps": STEPS, "prompts_per_step": asked.dialogues // 2, "group": 2,
                    "micro_batch": asked.micro_batch, "learning_rate": 1e-30,
                },
            }
        )  # fmt: skip
        rows, marks = [], []

        def mark(row: Row) -> None:
            rows.append(row)
            marks.append(time.process_time())

        session = Session(config, speaker, Path(folder), mark)
        try:
            train_rl(session, LocalWorld(MAKE), people(asked))
        finally:
            session.close()
    return marks[-1] - marks[-2], int(rows[-1]["sampled_tokens"] or 0)


def stock(speaker: LanguageModel, asked: argparse.Namespace) -> Measured:
    """The last step of TRL's own trainer, its dialogues driven by a `rollout_func`."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    said: list[int] = []
    scenarios = people(asked)
    order = _order(len(scenarios))

    def roll_out(prompts: list[str], trainer: Any) -> dict[str, Any]:
        found = played(prompts, trainer, speaker, scenarios)
        said.append(sum(map(sum, found["env_mask"])))
        return found

    trainer = GRPOTrainer(
        model=speaker.model, processing_class=speaker.tokenizer, rollout_func=roll_out,
        reward_funcs=lambda prompts, completions, env_reward, **_: env_reward,
        train_dataset=Dataset.from_dict({"prompt": order}),
        args=GRPOConfig(**PLAIN | _sizes(asked), max_completion_length=asked.limit),
    )  # fmt: skip
    return timed(trainer), said[-1]


def _order(number: int) -> list[str]:
    """The dialogues of all steps, as heartloop orders them: scenario and user's seed."""
    from heartloop.policy.train.rl import prompts

    rl = {"steps": STEPS, "prompts_per_step": number, "group": 2, "micro_batch": 2}
    return prompts(settings.settings({"rl": rl}), number)


def played(
    prompts: Sequence[str], trainer: Any, speaker: LanguageModel, scenarios: Sequence[Scenario]
) -> dict[str, Any]:
    """Dialogues in the manner of TRL's examples: every turn is generated from all before it."""
    dialogues = []
    for prompt in prompts:
        ((index, seed),) = json.loads(prompt)
        dialogues.append(Dialogue(MAKE(), scenarios[index], seed))
    starts = [speaker.start(d.history) for d in dialogues]
    said: list[list[int]] = [[] for _ in dialogues]
    masks: list[list[int]] = [[] for _ in dialogues]
    while under_way := [n for n, d in enumerate(dialogues) if d.stop is None]:
        contexts = [starts[n] + said[n] for n in under_way]
        replies, _ = trainer._generate_single_turn(contexts, None, {}, 1)
        for n, ids in zip(under_way, replies, strict=True):
            turn = dialogues[n].step(speaker.reply(ids))
            said[n] += ids
            masks[n] += [1] * len(ids)
            if dialogues[n].stop is None and turn.reaction:
                cut = ids[-1] not in speaker.end_ids
                heard = [*speaker.end_ids[: int(cut)], *speaker.user_turn(turn.reaction.text)]
                said[n] += heard
                masks[n] += [0] * len(heard)
    rewards = [d.turns[-1].reaction.emotion / 100 for d in dialogues if d.turns[-1].reaction]
    return {
        "prompt_ids": starts, "completion_ids": said, "logprobs": None, "env_mask": masks,
        "env_reward": rewards,
    }  # fmt: skip


def environment(speaker: LanguageModel, asked: argparse.Namespace) -> Measured:
    """The last step of TRL's own trainer and loop."""
    trainer, _ = environment_trainer(speaker, people(asked), asked.limit, **_sizes(asked))
    said: list[int] = []
    score = trainer._generate_and_score_completions

    def counted(inputs: Any) -> Any:
        output = score(inputs)
        said.append(int((output["tool_mask"] * output["completion_mask"]).sum()))
        return output

    trainer._generate_and_score_completions = counted
    return timed(trainer), said[-1]


def _sizes(asked: argparse.Namespace) -> dict[str, Any]:
    passes = asked.dialogues // asked.micro_batch
    return {
        "per_device_train_batch_size": asked.micro_batch, "gradient_accumulation_steps": passes,
        "steps_per_generation": passes, "temperature": COLD, "learning_rate": 1e-30,
        "max_steps": STEPS, "logging_steps": 1, "shuffle_dataset": False,
    }  # fmt: skip


def timed(trainer: Any) -> float:
    """Seconds between the last two reports of a run."""
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_log(self, *_: Any, **__: Any) -> None:
            if len(marks) < STEPS:  # a summary follows
                marks.append(time.process_time())

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.train()
    return marks[-1] - marks[-2]


if __name__ == "__main__":
    sys.exit(main())
