"""Proximal policy optimisation: a critic beside the trainer that makes and scores the dialogues.

The critic is a network of its own, a copy of the policy's trunk as it began, with one output. A
head on the policy's own trunk did not learn (measured on a small policy): the trunk moves too fast.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heartloop.config import TrainConfig
from heartloop.policy.train import checkpoint, credit
from heartloop.policy.train.trl_adapter import DialogueTrainer, trimmed, trunk

FLOOR = 0.01
"""Least spread that advantages are divided by: one point of emotion. Below it, a batch of equal
returns would be blown up into noise."""
CRITIC, OPTIMISER = "critic.safetensors", "critic_optimizer.safetensors"


class Critic(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy here
    """The value of each state of a dialogue: the reward that is still to come."""

    def __init__(self, network: nn.Module, width: int) -> None:
        """Put one output on a trunk whose states have so many entries."""
        super().__init__()
        self.network = network.float().requires_grad_(True)
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def like(cls, model: Any) -> Critic:
        """A critic that begins with the states of a policy."""
        return cls(copy.deepcopy(trunk(model)), model.config.get_text_config().hidden_size)

    def forward(self, ids: Tensor, attention: Tensor, keep: int) -> Tensor:
        """Values of the states before each of the last `keep` tokens, shape (rows, keep)."""
        states = self.network(input_ids=ids, attention_mask=attention, use_cache=False)
        values: Tensor = self.head(states.last_hidden_state[:, -keep - 1 : -1].float())
        return values.squeeze(-1)


class CriticLearner:
    """A critic and its optimiser, and their state between runs."""

    def __init__(self, critic: Critic, config: TrainConfig, done: int = 0) -> None:
        """Learn with the settings of `[ppo]`, of which so many steps are done."""
        ppo = config.ppo
        self.critic = critic
        self.optimiser = torch.optim.AdamW(
            critic.parameters(), lr=ppo.learning_rate, weight_decay=0.0
        )
        self.rate = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: min(1.0, (step + done + 1) / (ppo.warmup_steps + 1))
        )

    def step(self, max_grad_norm: float) -> None:
        """Move along the gradients that have gathered."""
        nn.utils.clip_grad_norm_(self.critic.parameters(), max_grad_norm)
        self.optimiser.step()
        self.rate.step()
        self.optimiser.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Write both beside the model of a checkpoint."""
        from safetensors.torch import save_model

        save_model(self.critic, str(folder / CRITIC))
        checkpoint.save_optimiser(folder / OPTIMISER, self.optimiser)

    def load(self, folder: Path) -> None:
        """Read both back."""
        from safetensors.torch import load_model

        load_model(self.critic, str(folder / CRITIC))
        checkpoint.load_optimiser(folder / OPTIMISER, self.optimiser)


class PpoTrainer(DialogueTrainer):
    """The trainer of dialogues, with advantages from a critic instead of a group."""

    def __init__(self, *args: Any, learner: CriticLearner, **kwargs: Any) -> None:
        """Train beside the critic of `learner`."""
        super().__init__(*args, **kwargs)
        self._learner = learner
        learner.critic.to(self.accelerator.device)
        self._critic: Any = learner.critic
        if self.accelerator.num_processes > 1:
            self._critic = nn.parallel.DistributedDataParallel(learner.critic)

    def _judged(self, rows: Sequence[dict[str, Any]], output: dict[str, Any]) -> dict[str, Tensor]:
        """An advantage and a return for each token, and the value that it began with."""
        ppo = self._config.ppo
        mask = (output["completion_mask"] * output["tool_mask"]).bool()
        rewards = self._rewards(rows, output["completion_ids"])
        values = self._values(output).masked_fill(~mask, 0.0)
        advantages, returns = credit.gae(rewards, values, mask, ppo.gamma, ppo.lam)
        self._note("explained_variance", self._explained(values, returns, mask))
        return {
            "advantages": self._whitened(advantages, mask), "returns": returns,
            "old_values": values,
        }  # fmt: skip

    def _rewards(self, rows: Sequence[dict[str, Any]], like: Tensor) -> Tensor:
        """What each turn earned, at its last token."""
        by_turn = self._config.reward.credit == "turn"
        earned = [
            credit.shares(row["env_reward"], row["turn_rewards"], by_turn)
            if row["env_reward"] is not None
            else []
            for row in rows
        ]
        ends = [
            row["turn_ends"] if shares else [] for row, shares in zip(rows, earned, strict=True)
        ]
        return credit.at_ends(earned, ends, like)

    def _values(self, output: dict[str, Any]) -> Tensor:
        """The critic's values of a batch, in parts as large as the loss takes them."""
        size = self.args.per_device_train_batch_size
        with torch.no_grad():
            parts = [
                self._valued({k: output[k][at : at + size] for k in _SEEN})
                for at in range(0, len(output["prompt_ids"]), size)
            ]
        return torch.cat(parts)

    def _valued(self, inputs: dict[str, Any]) -> Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with self.accelerator.autocast():
            values: Tensor = self._critic(ids, attention, inputs["completion_ids"].shape[1])
        return values

    def _whitened(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Advantages of mean 0 and spread 1 over all processes' tokens, unless all are equal."""
        number, total = self._sums(mask.float(), advantages)
        mean = total / number
        (squares,) = self._sums(((advantages - mean) * mask) ** 2)
        spread = (squares / number).sqrt().clamp(min=FLOOR)
        return (advantages - mean) / spread * mask

    def _explained(self, values: Tensor, returns: Tensor, mask: Tensor) -> float:
        """Share of the returns' variance that the values foresaw; NaN where there is none."""
        number, total, missed = self._sums(mask.float(), returns, returns - values)
        around, off = (returns - total / number) * mask, (returns - values - missed / number) * mask
        whole, left = self._sums(around**2, off**2)
        return float(1 - left / whole) if whole > number * FLOOR**2 else float("nan")

    def _sums(self, *tensors: Tensor) -> Tensor:
        """Sum of each tensor over all processes."""
        own = torch.stack([tensor.sum() for tensor in tensors])
        summed: Tensor = self.accelerator.reduce(own, reduction="sum")
        return summed

    def _note(self, name: str, value: float) -> None:
        """Log a figure, the mean of all processes."""
        own = torch.tensor(value, device=self.accelerator.device)
        mean = float(self.accelerator.reduce(own, reduction="mean"))
        self._metrics["train" if self.model.training else "eval"][f"ppo/{name}"].append(mean)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """The policy's loss; on the way the critic learns from the same tokens."""
        self._teach(inputs)
        return super()._compute_loss(model, inputs)

    def _teach(self, inputs: dict[str, Any]) -> None:
        """Gather the critic's gradient, and step where the policy steps."""
        inputs = trimmed(inputs)
        clip = self._config.ppo.value_clip
        mask = inputs["completion_mask"] * inputs["tool_mask"]
        values, old, aims = self._valued(inputs), inputs["old_values"], inputs["returns"]
        near = old + (values - old).clamp(-clip, clip)
        worse = torch.maximum((values - aims) ** 2, (near - aims) ** 2)
        loss = 0.5 * (worse * mask).sum() / mask.sum().clamp(min=1)
        (loss / self.current_gradient_accumulation_steps).backward()
        self._note("value_loss", float(loss.detach()))
        if self.accelerator.sync_gradients:
            self._learner.step(self._config.rl.max_grad_norm)


_SEEN = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
