"""The seams of TRL 1.16, all of them here: how rollouts get in, and what is computed of them.

What TRL does and does not say (measured; the tests of this module fail when it changes):

- `rollout_func` gets its prompts already repeated, each `num_generations` times in a row.
- It sees nothing of a row but its prompt, so the prompt names the scenario and the user's seed.
- `env_mask` marks the policy's tokens; other keys reach reward functions, a list item per row.
- A reward of None leaves a row out of its group's mean and gives it an advantage of 0.
- The rows it is given are changed in place, so that what the rollouts brought can be read there.
- Advantages may be of shape (rows, tokens); any tensor beside them is shuffled and split with them.
- A group has two samples or more, so that a prompt may name several dialogues, one for each.
- Old log-probabilities are those of the weights that are trained, so that `logprobs` stays None
  unless another sampler drew the tokens: each token then weighs by the ratio of both, up to 3.
- With `use_vllm` it calls `vllm_generation.sync_weights()` before it asks for rollouts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from heartloop.config import SftSettings, TrainConfig
from heartloop.env.play import Task
from heartloop.policy.train import credit, ranks
from heartloop.policy.train.metrics import tied_rows
from heartloop.policy.train.rollout import Rollout
from heartloop.policy.train.sampler import Sampler
from heartloop.policy.train.session import Session
from heartloop.types import Scenario

PlayBatch = Callable[[Sequence[Task], int], Sequence[Rollout]]
"""Plays a batch of tasks with the weights after so many optimiser steps."""

_BY_TOKEN = (
    "completion_ids", "completion_mask", "tool_mask", "old_per_token_logps",
    "ref_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio",
)  # fmt: skip


def encode(dialogues: Sequence[tuple[int, int]]) -> str:
    """A prompt that names dialogues: a scenario by index, and the seed of the user who plays it."""
    return json.dumps(dialogues)


def decode(prompts: Sequence[str], scenarios: Sequence[Scenario]) -> list[Task]:
    """The tasks of a batch: the same prompt again is its next dialogue, or another sample."""
    seen: dict[str, int] = {}
    tasks = []
    for prompt in prompts:
        dialogues = json.loads(prompt)
        sample, place = divmod(seen.get(prompt, 0), len(dialogues))
        seen[prompt] = seen.get(prompt, 0) + 1
        index, seed = dialogues[place]
        tasks.append(Task(scenarios[index], seed, sample))
    return tasks


def as_output(
    rollouts: Sequence[Rollout], end: int, left_out: AbstractSet[int] = frozenset()
) -> dict[str, Any]:
    """Rollouts as `rollout_func` returns them; one without a reward is masked throughout.

    So are those whose number is in `left_out`.

    TRL reads the last token of every row, so that a dialogue which never began gets an `end`.
    """
    return {
        "prompt_ids": [list(r.prompt_ids) for r in rollouts],
        "completion_ids": [list(r.completion_ids) or [end] for r in rollouts],
        "logprobs": _logprobs(rollouts),
        "env_mask": [
            [0] * max(1, len(r.mask)) if r.reward is None or at in left_out else list(r.mask)
            for at, r in enumerate(rollouts)
        ],
        "env_reward": [r.reward for r in rollouts],
        "turn_rewards": [list(r.turn_rewards) for r in rollouts],
        "turn_ends": [list(r.turn_ends) for r in rollouts],
        "start": [r.emotions[0] / 100 for r in rollouts],
    }


def _logprobs(rollouts: Sequence[Rollout]) -> list[list[float]] | None:
    """What a sampler beside the policy gave its tokens; None where the policy drew them."""
    if not any(r.logprobs for r in rollouts):
        return None
    # A row without any is one whose dialogue never began; it is masked.
    return [list(r.logprobs) or [0.0] for r in rollouts]


def env_reward(
    prompts: list[str], completions: list[str], env_reward: list[float | None], **_: Any
) -> list[float | None]:
    """The reward function that TRL is given: hands on what the rollouts brought."""
    return env_reward


class DialogueTrainer(GRPOTrainer):  # type: ignore[misc]  # trl is untyped to mypy here
    """A GRPO trainer whose rollouts are dialogues of a `PlayBatch`."""

    def __init__(
        self, model: Any, tokenizer: Any, args: GRPOConfig, prompts: Sequence[str],
        scenarios: Sequence[Scenario], play: PlayBatch, config: TrainConfig, offset: int = 0,
        sampler: Sampler | None = None, **parts: Any,
    ) -> None:  # fmt: skip
        """Train `model` on the dialogues that `prompts` name, in their order.

        With an `offset`, so many optimiser steps went before; with a `sampler`, it draws the
        replies, and is given the weights before each batch.
        """
        from datasets import Dataset

        self._scenarios, self._play, self._offset = scenarios, play, offset
        self._config = config
        self._sampled: Tensor | None = None
        rows = Dataset.from_dict({"prompt": list(prompts)})
        super().__init__(
            model=model, reward_funcs=env_reward, args=args, train_dataset=rows,
            processing_class=tokenizer, rollout_func=_roll_out, **parts,
        )  # fmt: skip
        if sampler:
            # TRL would build an engine of its own, rounded to half precision and without seeds.
            self.use_vllm, self.vllm_generation, self._last_loaded_step = True, sampler, -1

    def roll_out(self, prompts: Sequence[str]) -> dict[str, Any]:
        """The dialogues of a batch of prompts."""
        step = int(self.state.global_step) + self._offset
        training = self.model.training
        self.model.eval()
        try:
            rollouts = self._play(decode(prompts, self._scenarios), step)
        finally:
            self.model.train(training)
        # TRL now shuffles the rows; from here on the same step does so in the same way.
        torch.manual_seed(self.args.seed * 1_000_003 + step)
        left_out = tied_rows(rollouts) if self._config.rl.skip_tied else frozenset()
        return as_output(rollouts, self.eos_token_ids[0], left_out)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch as the loss takes it."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return output | self._judged(inputs, output)

    def _judged(self, rows: Sequence[dict[str, Any]], output: dict[str, Any]) -> dict[str, Tensor]:
        """What replaces TRL's advantages, one a dialogue: those of the turns, where they differ."""
        if self._config.reward.credit == "terminal":
            return {}
        return {"advantages": self._by_turn(rows, output["completion_ids"])}

    def _by_turn(self, rows: Sequence[dict[str, Any]], like: Tensor) -> Tensor:
        """Advantages against the group, by turn; the batch lies on all processes."""
        own = [(row["env_reward"], row["turn_rewards"]) for row in rows]
        everyone: list[credit.Turns] = ranks.gather(own)
        rewards, size = [reward for reward, _ in everyone], self.num_generations
        batch = credit.spread(rewards)
        found: list[list[float]] = []
        for at in range(0, len(everyone), size):
            group = everyone[at : at + size]
            widths = {"group": credit.spread(rewards[at : at + size]), "batch": batch, "none": 1.0}
            width = widths[self._config.rl.scale_rewards]
            found += credit.turn_advantages(group, self._config.reward.credit == "centred", width)
        start = ranks.rank() * len(own)
        return credit.over_tokens(
            found[start : start + len(own)], [row["turn_ends"] for row in rows], like
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """The loss, without the columns that are padding in every row of this micro-batch."""
        cut = trimmed(inputs)
        self._sampled = (cut["completion_mask"] * cut["tool_mask"]).bool()
        try:
            return super()._compute_loss(model, cut)
        finally:
            self._sampled = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int,
        *args: Any, compute_entropy: bool = False, **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """Log-probabilities and entropies; within the loss, of the sampled tokens only.

        TRL projects every position onto the vocabulary when it runs on a processor, of which the
        loss needs about half.
        """
        if self._sampled is None or self.accelerator.num_processes > 1:
            # Several processes share their gradients only when the model itself is called.
            found: tuple[Tensor, Tensor | None, Tensor | None] = (
                super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, *args,
                    compute_entropy=compute_entropy, **kwargs,
                )
            )  # fmt: skip
            return found
        with self.accelerator.autocast():
            states = trunk(model)(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).last_hidden_state[:, -logits_to_keep - 1 : -1][self._sampled]
            logits = model.get_output_embeddings()(states).float() / self.temperature
        chosen = input_ids[:, -logits_to_keep:][self._sampled]
        return *scatter(logits, chosen, self._sampled, self.entropy_coef != 0), None


def trunk(model: Any) -> Any:
    """The network below the output layer, adapters included."""
    return (model.get_base_model() if hasattr(model, "peft_config") else model).base_model


def scatter(
    logits: Tensor, chosen: Tensor, places: Tensor, bonus: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of chosen tokens at their places, 0 elsewhere.

    Args:
        logits: Shape (tokens, vocabulary).
        chosen: Shape (tokens,).
        places: True at as many places as there are tokens, shape (rows, columns).
        bonus: Whether the entropy is learnt from, and not shown only: it then has a gradient.
    """
    chances = torch.log_softmax(logits, dim=-1)
    taken = chances.gather(1, chosen[:, None]).squeeze(1)
    with torch.set_grad_enabled(bonus and torch.is_grad_enabled()):
        spread = -(chances.exp() * chances).sum(-1)
    empty = torch.zeros(places.shape, device=logits.device)
    return empty.masked_scatter(places, taken), empty.masked_scatter(places, spread)


def trimmed(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of the loss without columns of padding, left of the prompts and right of the rest."""
    first = _first_used(inputs["prompt_mask"])
    width = inputs["completion_mask"].shape[1] - _first_used(inputs["completion_mask"].flip(1))
    cut = {key: inputs[key][:, first:] for key in ("prompt_ids", "prompt_mask")}
    cut |= {key: inputs[key][:, :width] for key in _BY_TOKEN if key in inputs}
    if inputs["advantages"].dim() == 2:
        cut["advantages"] = inputs["advantages"][:, :width]
    return inputs | cut


def _first_used(mask: Tensor) -> int:
    """Index of the first column in which any row has a token."""
    used = mask.any(dim=0).nonzero()
    return int(used[0]) if len(used) else 0


def _roll_out(prompts: list[str], trainer: DialogueTrainer) -> dict[str, Any]:
    return trainer.roll_out(prompts)


class _Watcher(TrainerCallback):  # type: ignore[misc]
    """Hands on the log of each optimiser step."""

    def __init__(self, learnt: Callable[[int, dict[str, Any]], None]) -> None:
        self._learnt = learnt

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            self._learnt(int(state.global_step), logs)


def watcher(learnt: Callable[[int, dict[str, Any]], None]) -> TrainerCallback:
    """A callback that calls `learnt` with number and log of each optimiser step."""
    return _Watcher(learnt)


def arguments(config: TrainConfig, folder: str, steps: int) -> GRPOConfig:
    """TRL's settings for a run of so many optimiser steps; it writes nothing itself."""
    rl, total = config.rl, config.rl.prompts_per_step * config.rl.group
    together = ranks.size()
    micro = rl.micro_batch // together
    return GRPOConfig(
        **common(config, folder, steps),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=total // rl.minibatches // (micro * together),
        steps_per_generation=total // (micro * together),
        num_generations=max(2, rl.group),
        num_iterations=rl.iterations,
        max_completion_length=config.policy.max_new_tokens,
        temperature=config.policy.temperature,
        learning_rate=rl.learning_rate,
        max_grad_norm=rl.max_grad_norm,
        epsilon=rl.epsilon,
        beta=rl.beta,
        entropy_coef=rl.entropy,
        loss_type=rl.loss_type,
        scale_rewards=rl.scale_rewards,
        vllm_importance_sampling_mode="token_truncate",
        shuffle_dataset=False,
    )


def common(config: TrainConfig, folder: str, steps: int) -> dict[str, Any]:
    """Settings of every trainer of TRL, whatever it trains on."""
    return {
        "output_dir": folder,
        "run_name": config.run.name,
        "seed": config.run.seed,
        "max_steps": steps,
        "bf16": config.rl.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": config.policy.gradient_checkpointing,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def supervised(
    session: Session, sft: SftSettings, rows: Sequence[dict[str, list[int]]], steps: int,
    optimiser: Any, rate: Any, learnt: Callable[[int, dict[str, Any]], None],
) -> SFTTrainer:  # fmt: skip
    """A trainer for so many steps over rows of `input_ids` and `labels`, in their order."""
    from datasets import Dataset

    args = SFTConfig(
        **common(session.config, str(session.out), steps),
        per_device_train_batch_size=sft.micro_batch // ranks.size(),
        gradient_accumulation_steps=sft.dialogues // sft.micro_batch,
        learning_rate=sft.learning_rate,
        max_length=None,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return SFTTrainer(
        model=session.speaker.model, args=args, processing_class=session.speaker.tokenizer,
        train_dataset=Dataset.from_list(list(rows)), callbacks=[watcher(learnt)],
        optimizers=(optimiser, rate),
    )  # fmt: skip
