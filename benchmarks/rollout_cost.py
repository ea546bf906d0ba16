"""What driver and environment add to the bare generation of the same tokens, in one run.

    python benchmarks/rollout_cost.py [--policy seedling] [--dialogues 32] [--actors 0]

Exits with 1 when rollouts cost more than 1.15 of the generation within them, by the median of
several batches: a share within one batch, which other load on the machine cannot shift. The same
generation alone is timed too. Beside it stands TRL's own
`environment_factory` on the same scenarios, bent into a dialogue: each reply counts as a call of
the tool `say`, whose result is the user's answer.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median
from tempfile import gettempdir
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from transformers import PreTrainedTokenizerFast

from heartloop.env.play import Dialogue, LocalWorld, Task
from heartloop.policy.base import make_policy
from heartloop.policy.decode import Talk
from heartloop.policy.model import LanguageModel, ModelPolicy
from heartloop.policy.parallel import RayWorld
from heartloop.policy.train import rollout
from heartloop.policy.train.rollout import Driver, Rollout
from heartloop.rewards import reward
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack
from heartloop.types import Reply, Scenario

MOST, ROUNDS = 1.15, 5
MAKE = partial(make_user, "embedded")
Heard = list[tuple[dict[int, list[int]], dict[int, int], dict[int, list[int]]]]


def main() -> int:
    """Measure, print, judge."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    policy = make_policy(asked.policy)
    assert isinstance(policy, ModelPolicy), f"expected a language model, got {asked.policy!r}"
    speaker, scenarios = policy.model, pack("train")[: asked.dialogues]
    tasks = [Task(scenario, seed) for seed, scenario in enumerate(scenarios)]
    with RayWorld(MAKE, asked.actors) if asked.actors else nullcontext(LocalWorld(MAKE)) as world:
        driver = Driver(world, speaker, reward("final"), asked.limit, 1.0)
        heard = recorded(driver, tasks)
        shares: list[float] = []

        def play() -> None:
            rollouts[:] = driver.play(tasks, "p")
            shares.append(driver.spent.total / driver.spent.generation)

        rollouts: list[Rollout] = []
        whole, bare = alternated(play, lambda: replayed(speaker, heard, asked.limit))
    sampled = sum(r.sampled for r in rollouts)
    ratio = median(shares)
    _row("bare generation, cache kept", bare, sampled, bare)
    _row(f"rollouts, actors: {asked.actors}", whole, sampled, bare)
    for name, measure in {
        "policy call, whole history": lambda: _stateless(policy, rollouts, asked.limit),
        "TRL environment_factory": lambda: environment_factory(speaker, scenarios, asked.limit),
    }.items():
        seconds, tokens = measure()
        _row(name, seconds, tokens, bare * tokens / sampled)
    verdict = "within" if ratio <= MOST else "beyond"
    print(f"rollout / generation within it: {ratio:.3f}, {verdict} {MOST}; last: {driver.spent}")
    return int(ratio > MOST)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="seedling")
    parser.add_argument("--dialogues", type=int, default=32)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--actors", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _row(name: str, seconds: float, tokens: int, bare: float) -> None:
    print(
        f"{name:30} {seconds:7.2f} s {tokens / seconds:8.0f} tokens/s {seconds / bare:6.2f} x bare"
    )


def recorded(driver: Driver, tasks: Sequence[Task]) -> Heard:
    """Everything that generation is given and gives back while a batch is played."""
    heard: Heard = []

    class Recorder(Talk):
        def reply(self, added: Any, seeds: Any) -> dict[int, list[int]]:
            replies = super().reply(added, seeds)
            heard.append((dict(added), dict(seeds), replies))
            return replies

    rollout.Talk = Recorder  # type: ignore[misc]
    try:
        driver.play(tasks, "p")
    finally:
        rollout.Talk = Talk  # type: ignore[misc]
    return heard


def replayed(speaker: LanguageModel, heard: Heard, limit: int) -> None:
    """The same generation with nothing around it."""
    talk = Talk(speaker.model, speaker.end_ids, limit, 1.0)
    for added, seeds, replies in heard:
        assert talk.reply(added, seeds) == replies, "the same tokens must come out"


def alternated(*things: Callable[[], object]) -> list[float]:
    """The least seconds of each thing, measured in turns so that all meet the same load."""
    least = [float("inf")] * len(things)
    for _ in range(ROUNDS):
        for place, thing in enumerate(things):
            began = time.perf_counter()
            thing()
            least[place] = min(least[place], time.perf_counter() - began)
    return least


def _stateless(policy: ModelPolicy, rollouts: Sequence[Rollout], limit: int) -> tuple[float, int]:
    """The same dialogues through `LanguageModel.generate`, which reads each context anew."""
    from heartloop.policy.model import Sampling

    speaker, seconds, tokens = policy.model, 0.0, 0
    for turn in range(max(len(r.turn_ends) for r in rollouts)):
        playing = [r for r in rollouts if turn < len(r.turn_ends)]
        contexts = [_context(r, turn) for r in playing]
        began = time.perf_counter()
        replies = speaker.generate(contexts, Sampling(max_new_tokens=limit), turn)
        seconds += time.perf_counter() - began
        tokens += sum(map(len, replies))
    return seconds, tokens


def _context(r: Rollout, turn: int) -> list[int]:
    """All ids before the reply of a turn."""
    end = r.turn_ends[turn]
    while end >= 0 and r.mask[end]:
        end -= 1
    return [*r.prompt_ids, *r.completion_ids[: end + 1]]


class SayTokenizer(PreTrainedTokenizerFast):
    """Reads every reply as a call of the tool `say`."""

    def parse_response(self, response: Any, **_: Any) -> dict[str, Any]:
        """The call that a reply stands for."""
        message = self.decode(response, skip_special_tokens=True).strip()
        call = {"name": "say", "arguments": {"message": message}}
        return {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": call}]}  # fmt: skip


TEMPLATE = (
    "{%- for m in messages %}"
    "{%- if m.role == 'assistant' %}{{ '<|assistant|>' + m.content }}"
    "{%- for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{%- for k, v in c.function.arguments.items() %}{{ k + v }}{% endfor %}{% endfor %}"
    "{{ '<|end|>' }}{% else %}{{ '<|user|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


PLAIN = {
    "output_dir": gettempdir(), "num_generations": 2, "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
    "disable_tqdm": True,
}  # fmt: skip
"""Settings of TRL on a processor that writes nothing."""


class Room:
    """A dialogue as an environment of TRL; it cannot end before the last turn."""

    def reset(self, scenario: str, **_: Any) -> None:
        """Open the dialogue with the scenario of that id."""
        known = {s.id: s for s in pack("train")}
        self._dialogue = Dialogue(MAKE(), known[scenario], 0)

    def say(self, message: str) -> str:
        """Say something to the user.

        Args:
            message: What to say.

        Returns:
            What the user answers.
        """
        if self._dialogue.stop:
            return "..."
        turn = self._dialogue.step(Reply(text=message))
        return turn.reaction.text if turn.reaction else "..."


def environment_factory(
    speaker: LanguageModel, scenarios: Sequence[Scenario], limit: int
) -> tuple[float, int]:
    """Seconds and sampled tokens of the same dialogues in TRL's own loop."""
    size = len(scenarios)
    trainer, rows = environment_trainer(
        speaker, scenarios[: size // 2], limit, per_device_train_batch_size=size, max_steps=1
    )
    began = time.perf_counter()
    output = trainer._generate_and_score_completions([row for row in rows for _ in range(2)])
    seconds = time.perf_counter() - began
    return seconds, int((output["tool_mask"] * output["completion_mask"]).sum())


def environment_trainer(
    speaker: LanguageModel, scenarios: Sequence[Scenario], limit: int, **special: Any
) -> tuple[Any, list[dict[str, Any]]]:
    """TRL's trainer over dialogues with these people, two samples of each, and its rows."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = SayTokenizer(
        tokenizer_object=speaker.tokenizer.backend_tokenizer, padding_side="left",
        eos_token=speaker.tokenizer.eos_token, pad_token=speaker.tokenizer.pad_token,
    )  # fmt: skip
    tokenizer.chat_template, tokenizer.response_template = TEMPLATE, {"tool": "say"}
    turns = MAKE().preset.turns
    rows = [
        {"prompt": [{"role": "user", "content": s.opener}], "scenario": s.id} for s in scenarios
    ]
    args = GRPOConfig(
        **PLAIN | special, max_completion_length=turns * (limit + 120),
        max_tool_calling_iterations=turns - 1, generation_kwargs={"max_new_tokens": limit},
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=speaker.model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows),
        reward_funcs=lambda prompts, **_: [0.0] * len(prompts), environment_factory=Room,
        args=args,
    )  # fmt: skip
    return trainer, rows


if __name__ == "__main__":
    sys.exit(main())
