"""Proximal policy optimisation: a critic beside the trainer that makes and scores the dialogues.

The critic reads dialogues through a trunk of its own, a copy of the policy's as it began, which
stands still unless told to learn: its states are then made once a batch, and a head on them learns
in many cheap passes. A head on the policy's own trunk did not learn (measured on a small policy):
that trunk moves too fast.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heartloop.config import TrainConfig
from heartloop.policy.train import checkpoint, credit
from heartloop.policy.train.trl_adapter import DialogueTrainer, trunk

FLOOR = 0.01
"""Least spread that advantages are divided by: one point of emotion. Below it, a batch of equal
returns would be blown up into noise."""
CRITIC, OPTIMISER = "critic.safetensors", "critic_optimizer.safetensors"


class Critic(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy here
    """The value of each state of a dialogue: the reward that is still to come."""

    def __init__(self, network: nn.Module, width: int, learns: bool = False) -> None:
        """Put a head on a trunk whose states have so many entries.

        Args:
            network: The trunk.
            width: Of its states.
            learns: Whether the trunk learns as well; otherwise the head alone does.
        """
        super().__init__()
        self._middle = (network.config.get_text_config().num_hidden_layers + 1) // 2
        self.network = network.float().requires_grad_(learns)
        self.learns = learns
        head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))
        # An optimiser's state is read back to where the weights lie by then.
        self.head = head.to(next(network.parameters()).device)
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    @classmethod
    def like(cls, model: Any, learns: bool = False, checkpointing: bool = False) -> Critic:
        """A critic that begins with the states of a policy.

        Args:
            model: The policy.
            learns: Whether the trunk learns as well.
            checkpointing: Whether a trunk that learns computes its activations twice.
        """
        network = copy.deepcopy(trunk(model))
        if learns and checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            network.gradient_checkpointing_disable()
        network.train(learns and checkpointing)
        return cls(network, model.config.get_text_config().hidden_size, learns)

    def states(self, ids: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
        """What is known before those tokens: the states half way up the trunk and at its top.

        Args:
            ids: Shape (rows, columns).
            attention: Same shape.
            mask: The tokens meant, among the last columns, shape (rows, fewer columns).

        Returns:
            Shape (tokens, 2 * width), each half normalised.
        """
        keep = mask.shape[1]
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            layers = self.network(
                input_ids=ids, attention_mask=attention, use_cache=False,
                output_hidden_states=[self._middle, -1],
            ).hidden_states  # fmt: skip
            read = [layers[at][:, -keep - 1 : -1][mask].float() for at in (self._middle, -1)]
            return torch.cat([F.layer_norm(part, part.shape[-1:]) for part in read], dim=-1)

    def forward(
        self, ids: Tensor, attention: Tensor, mask: Tensor, states: Tensor | None = None
    ) -> Tensor:
        """Values of the states before the last tokens where `mask` is set, shape (tokens,)."""
        if states is None:
            states = self.states(ids, attention, mask)
        # In half precision values near 1 would be apart by half a point of emotion.
        with torch.autocast(states.device.type, enabled=False):
            values: Tensor = self.head(states)
        return values.squeeze(-1)


class CriticLearner:
    """A critic and its optimiser, and their state between runs."""

    def __init__(self, critic: Critic, config: TrainConfig, done: int = 0) -> None:
        """Learn with the settings of `[ppo]`, after so many batches."""
        ppo = config.ppo
        self.critic = critic
        self.optimiser = torch.optim.AdamW(
            [weight for _, weight in self._learnt()],
            lr=ppo.learning_rate, weight_decay=0.0,
        )  # fmt: skip
        self.rate = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda batch: min(1.0, (batch + done + 1) / (ppo.warmup_steps + 1))
        )

    def step(self, max_grad_norm: float) -> None:
        """Move along the gradients that have gathered."""
        nn.utils.clip_grad_norm_(self.critic.parameters(), max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Write both beside the model of a checkpoint, of the critic what learns."""
        from safetensors.torch import save_file

        save_file({n: w.detach().contiguous() for n, w in self._learnt()}, str(folder / CRITIC))
        checkpoint.save_optimiser(folder / OPTIMISER, self.optimiser)

    def load(self, folder: Path) -> None:
        """Read both back; a trunk that stands still must be there already."""
        from safetensors.torch import load_file

        found = load_file(str(folder / CRITIC))
        with torch.no_grad():
            for name, weight in self._learnt():
                weight.copy_(found[name])
        checkpoint.load_optimiser(folder / OPTIMISER, self.optimiser)

    def _learnt(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, w) for n, w in self.critic.named_parameters() if w.requires_grad]


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
        """An advantage for each token; then the critic learns from the batch."""
        ppo = self._config.ppo
        mask = (output["completion_mask"] * output["tool_mask"]).bool()
        rewards = self._rewards(rows, output["completion_ids"])
        parts = self._parts(output, mask)
        with torch.no_grad():
            for part in parts:
                part.states = None if ppo.learn_trunk else self._read(part)
                part.values = self._valued(part)
        values = torch.zeros_like(rewards).masked_scatter(
            mask, torch.cat([part.values for part in parts])
        )
        advantages, returns = credit.gae(rewards, values, mask, ppo.gamma, ppo.lam)
        _, came = credit.gae(rewards, values, mask, ppo.gamma, 1.0)
        self._note("explained_variance", self._explained(values, returns, mask))
        self._note("explained_outcome", self._explained(values, came, mask))
        self._teach(parts, returns)
        return {"advantages": self._whitened(advantages, mask)}

    def _rewards(self, rows: Sequence[dict[str, Any]], like: Tensor) -> Tensor:
        """What each turn earned, at its last token.

        Shaped by turn, the emotion that the dialogue began with is nobody's merit: it would have to
        travel back through all turns before the critic knew it.
        """
        by_turn = self._config.reward.credit == "turn"
        earned = [
            credit.shares(row["env_reward"] - by_turn * row["start"], row["turn_rewards"], by_turn)
            if row["env_reward"] is not None
            else []
            for row in rows
        ]
        ends = [
            row["turn_ends"] if shares else [] for row, shares in zip(rows, earned, strict=True)
        ]
        return credit.at_ends(earned, ends, like)

    def _parts(self, output: dict[str, Any], mask: Tensor) -> list[_Part]:
        """A batch in parts as large as the policy's loss takes them."""
        size = self.args.per_device_train_batch_size
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        return [
            _Part(*(tensor[at : at + size] for tensor in (ids, attention, mask)))
            for at in range(0, len(ids), size)
        ]

    def _read(self, part: _Part) -> Tensor:
        with self.accelerator.autocast():
            return self._learner.critic.states(part.ids, part.attention, part.mask)

    def _valued(self, part: _Part) -> Tensor:
        with self.accelerator.autocast():
            values: Tensor = self._critic(part.ids, part.attention, part.mask, states=part.states)
        return values

    def _whitened(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Advantages of mean 0 and spread 1 over all processes' tokens, unless all are equal."""
        number, total = self._sums(mask.float(), advantages)
        number = number.clamp(min=1)
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

    def _apart(self, alone: bool) -> AbstractContextManager[Any]:
        """Several processes share their gradients with the last part of a step only."""
        found: AbstractContextManager[Any] = (
            self.accelerator.no_sync(self._critic) if alone else nullcontext()
        )
        return found

    def _teach(self, parts: Sequence[_Part], returns: Tensor) -> None:
        """Let the critic learn what came, in so many passes over the batch."""
        settings, clip = self._config, self._config.ppo.value_clip
        rows = returns.split([len(part.mask) for part in parts])
        aims = [row[part.mask] for part, row in zip(parts, rows, strict=True)]
        size = len(parts) // settings.rl.minibatches
        for start in [*range(0, len(parts), size)] * settings.ppo.passes:
            chosen = list(zip(parts, aims, strict=True))[start : start + size]
            tokens = self._sums(torch.cat([part.mask for part, _ in chosen]).float())[0]
            total = 0.0
            for at, (part, aim) in enumerate(chosen, 1):
                with torch.enable_grad(), self._apart(at < len(chosen)):
                    values = self._valued(part)
                    near = part.values + (values - part.values).clamp(-clip, clip)
                    worse = torch.maximum((values - aim) ** 2, (near - aim) ** 2)
                    loss = 0.5 * worse.sum() / tokens.clamp(min=1)
                    # Several processes take the mean of their gradients, not the sum.
                    (loss * self.accelerator.num_processes).backward()
                total += float(loss.detach())
            self._note("value_loss", total * self.accelerator.num_processes)
            self._learner.step(settings.rl.max_grad_norm)
        self._learner.rate.step()


@dataclass
class _Part:
    """Some rows of a batch, and what the critic made of them before it learnt."""

    ids: Tensor
    attention: Tensor
    mask: Tensor
    """True at the policy's tokens, by completion token."""
    states: Tensor | None = None
    """Of the policy's tokens; None where the trunk learns, so that they change."""
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    """Of the policy's tokens, shape (tokens,)."""
