"""What TRL does with our rollouts; these fail when its seams move."""

from functools import partial

import pytest
import torch

from heartloop import config as settings
from heartloop.env.play import LocalWorld, Task
from heartloop.policy.train import trl_adapter
from heartloop.policy.train.rollout import Driver
from heartloop.rewards import reward
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack
from tests.fakes import ToyUser, toy_scenario

EMBEDDED = partial(make_user, "embedded")
SCENARIOS = pack("train")[:4]
CONFIG = settings.settings(
    {
        "policy": {"max_new_tokens": 8},
        "rl": {"steps": 1, "prompts_per_step": 2, "group": 3, "micro_batch": 6},
    }
)


class Stage:
    """A trainer and the batches that it played."""

    def __init__(self, speaker, folder, scenarios=SCENARIOS, make=EMBEDDED, config=CONFIG):
        self.batches: list[list[Task]] = []
        self.rollouts = []
        driver = Driver(LocalWorld(make), speaker, reward("final"), 8, 1.0)

        def play(tasks, step):
            self.batches.append(list(tasks))
            self.rollouts = driver.play(tasks, f"tiny@{step}")
            return self.rollouts

        prompts = [trl_adapter.encode([(i, 100 + i)]) for i in range(2)]
        self.trainer = trl_adapter.DialogueTrainer(
            speaker.model, speaker.tokenizer, trl_adapter.arguments(config, str(folder), 1),
            prompts, scenarios, play, config,
        )  # fmt: skip
        self.prompts = [p for p in prompts for _ in range(3)]

    def inputs(self):
        """The scored batch as the loss gets it."""
        self.trainer.model.train()
        self.trainer.current_gradient_accumulation_steps = 1
        rows = [{"prompt": p} for p in self.prompts]
        return self.trainer._generate_and_score_completions(rows)


def test_a_prompt_names_scenario_seed_and_sample():
    prompts = [trl_adapter.encode([(1, 7)])] * 2 + [trl_adapter.encode([(0, 7)])]
    tasks = trl_adapter.decode(prompts, SCENARIOS)
    assert tasks == [Task(SCENARIOS[1], 7, 0), Task(SCENARIOS[1], 7, 1), Task(SCENARIOS[0], 7, 0)]


def test_prompts_arrive_repeated_in_runs_and_in_order(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    stage.trainer.train()
    wanted = [Task(SCENARIOS[i], 100 + i, sample) for i in range(2) for sample in range(3)]
    assert stage.batches == [wanted]


def test_tokens_and_masks_reach_the_loss_unchanged(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    inputs = stage.inputs()
    sampled = inputs["completion_mask"] * inputs["tool_mask"]
    for i, r in enumerate(stage.rollouts):
        size = len(r.completion_ids)
        assert inputs["completion_ids"][i, :size].tolist() == list(r.completion_ids)
        assert sampled[i, :size].tolist() == list(r.mask)
        assert not sampled[i, size:].any()


def test_advantages_are_rewards_against_the_group(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    found = stage.inputs()["advantages"].view(2, 3)
    rewards = torch.tensor([r.reward for r in stage.rollouts]).view(2, 3)
    wanted = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_masked_tokens_get_no_gradient(speaker, tmp_path, monkeypatch):
    stage = Stage(speaker, tmp_path)
    inputs = trl_adapter.trimmed(stage.inputs())
    inputs["advantages"] = torch.linspace(0.5, 1.0, 6)
    logps = torch.full(inputs["completion_ids"].shape, -2.0, requires_grad=True)
    monkeypatch.setattr(
        stage.trainer, "_get_per_token_logps_and_entropies",
        lambda *_, **__: (logps, torch.zeros_like(logps), None),
    )  # fmt: skip
    stage.trainer._compute_loss(stage.trainer.model, inputs).backward()
    sampled = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    assert (logps.grad[sampled] < 0).all()
    assert (logps.grad[~sampled] == 0).all()


@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_scoring_the_sampled_tokens_only_changes_neither_loss_nor_gradient(
    speaker, tmp_path, entropy
):
    config = CONFIG.model_copy(update={"rl": CONFIG.rl.model_copy(update={"entropy": entropy})})
    stage = Stage(speaker, tmp_path, config=config)
    inputs = stage.inputs()
    inputs["advantages"] = torch.linspace(-1.0, 1.0, 6)
    model, results = stage.trainer.model, []
    for compute in (
        stage.trainer._compute_loss,
        super(type(stage.trainer), stage.trainer)._compute_loss,
    ):
        model.zero_grad()
        loss = compute(model, dict(inputs))
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    (own, own_grads), (their, their_grads) = results
    assert torch.allclose(own, their, atol=1e-6)
    assert any(g.abs().max() > 1e-4 for g in own_grads)
    for one, other in zip(own_grads, their_grads, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_dialogue_without_a_score_moves_nothing(speaker, tmp_path):
    scenarios = [toy_scenario("a"), toy_scenario("b", opener="fail")]
    stage = Stage(speaker, tmp_path, scenarios, ToyUser)
    inputs = stage.inputs()
    assert [r.reward is None for r in stage.rollouts] == [False] * 3 + [True] * 3
    assert (inputs["advantages"][3:] == 0).all()
    assert not (inputs["completion_mask"] * inputs["tool_mask"])[3:].any()
    loss = stage.trainer._compute_loss(stage.trainer.model, inputs)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.trainer.model.parameters())


@pytest.mark.parametrize(("left", "right"), [(0, 0), (2, 0), (0, 3), (1, 1)], ids=lambda n: str(n))
def test_trimming_takes_away_columns_of_padding_only(left, right):
    prompt = torch.tensor([[0] * left + [1, 1], [0] * left + [0, 1]])
    said = torch.tensor([[1, 1, 0] + [0] * right, [1, 1, 1] + [0] * right])
    ids = torch.arange(said.numel()).view(said.shape)
    cut = trl_adapter.trimmed(
        {"prompt_ids": prompt * 5, "prompt_mask": prompt, "completion_ids": ids,
         "completion_mask": said, "advantages": torch.zeros(2)}
    )  # fmt: skip
    assert cut["prompt_ids"].tolist() == [[5, 5], [0, 5]]
    assert cut["completion_ids"].tolist() == ids[:, :3].tolist()
    assert cut["advantages"].shape == (2,)
