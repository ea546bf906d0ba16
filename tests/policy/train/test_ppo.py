"""A critic learns beside the policy, and only from what the policy said."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from heartloop import config as settings
from heartloop.env.play import LocalWorld
from heartloop.policy.train import metrics, ppo, rl, trl_adapter
from heartloop.policy.train.rollout import Driver
from heartloop.rewards import reward
from tests.policy.train.conftest import tiny_model
from tests.policy.train.test_rl import Speller, recipe, train
from tests.policy.train.test_trl_adapter import EMBEDDED, SCENARIOS

CONFIG = settings.settings(
    {
        "policy": {"max_new_tokens": 8},
        "reward": {"credit": "turn"},
        "rl": {"algorithm": "ppo", "steps": 1, "prompts_per_step": 6, "group": 1, "micro_batch": 3},
        "ppo": {"warmup_steps": 0},
    }
)


def changed(**sections):
    """CONFIG with some settings of some sections changed."""
    return CONFIG.model_copy(
        update={name: getattr(CONFIG, name).model_copy(update=new)
                for name, new in sections.items()}
    )  # fmt: skip


class Stage:
    """A trainer, the rollouts that it played, and its batch."""

    def __init__(self, speaker, folder, make=EMBEDDED, config=CONFIG):
        driver = Driver(LocalWorld(make), speaker, reward("final"), 8, 1.0)
        self.rollouts = []

        def play(tasks, step):
            self.rollouts = driver.play(tasks, f"tiny@{step}")
            return self.rollouts

        critic = ppo.Critic.like(speaker.model, config.ppo.learn_trunk)
        self.learner = ppo.CriticLearner(critic, config)
        self.prompts = rl.prompts(CONFIG, len(SCENARIOS))
        self.trainer = ppo.PpoTrainer(
            speaker.model, speaker.tokenizer, trl_adapter.arguments(CONFIG, str(folder), 1),
            self.prompts, SCENARIOS, play, config, learner=self.learner,
        )  # fmt: skip
        self.trainer.model.train()
        self.trainer.current_gradient_accumulation_steps = 1
        self.taught = []
        teach = self.trainer._teach
        self.trainer._teach = lambda parts, returns: (
            self.taught.append((parts, returns)), teach(parts, returns)
        )  # fmt: skip
        rows = [{"prompt": p} for p in self.prompts for _ in range(2)]
        self.inputs = self.trainer._generate_and_score_completions(rows)
        self.mask = (self.inputs["completion_mask"] * self.inputs["tool_mask"]).bool()
        (self.parts, self.returns), *_ = self.taught


def test_without_groups_every_dialogue_is_another(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    played = [(r.episode.scenario.id, r.episode.seed) for r in stage.rollouts]
    assert len(set(played)) == len(played) == 6
    assert len(stage.prompts) == 3


def test_every_token_of_the_policy_has_an_advantage_and_a_return(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    shape = stage.inputs["completion_ids"].shape
    for found in (stage.inputs["advantages"], stage.returns):
        assert found.shape == shape
        assert not found[~stage.mask].any()
    own = stage.inputs["advantages"][stage.mask]
    assert float(own.mean()) == pytest.approx(0, abs=1e-5)
    assert float(own.pow(2).mean()) == pytest.approx(1, abs=1e-3)


def test_before_it_learns_the_critic_says_nothing_and_returns_are_the_reward(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    assert not torch.cat([part.values for part in stage.parts]).any()
    firsts = [int(row.nonzero()[0]) for row in stage.mask]
    for number, (rollout, first) in enumerate(zip(stage.rollouts, firsts, strict=True)):
        last = int(stage.mask[number].nonzero()[-1])
        earned = rollout.reward - rollout.emotions[0] / 100 - sum(rollout.turn_rewards[:-1])
        assert float(stage.returns[number, last]) == pytest.approx(earned, abs=1e-5)
        # Without values every earlier return is what is still to come, by lambda.
        changes = rollout.turn_rewards[:-1]
        far = [sum(stage.mask[number, first:end].tolist()) for end in rollout.turn_ends]
        wanted = sum(0.95**n * e for n, e in zip(far, [*changes, earned], strict=True))
        assert float(stage.returns[number, first]) == pytest.approx(wanted, abs=1e-5)


def test_a_dialogue_played_once_is_no_tied_group(speaker, tmp_path):
    stage = Stage(speaker, tmp_path, config=changed(rl={"skip_tied": True}))
    assert all(row.any() for row in stage.mask)
    assert metrics.tied_rows([*stage.rollouts, stage.rollouts[-1]]) == {5, 6}


def test_a_batch_of_which_nothing_is_learnt_has_no_advantages(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    empty = torch.zeros_like(stage.mask)
    assert not stage.trainer._whitened(torch.randn(empty.shape), empty).any()


def test_the_head_of_a_critic_lies_where_its_trunk_does(speaker):
    network = copy.deepcopy(trl_adapter.trunk(speaker.model)).to("meta")
    assert {p.device.type for p in ppo.Critic(network, 8).parameters()} == {"meta"}


def test_values_are_exact_where_the_network_computes_in_half_precision(speaker):
    critic = ppo.Critic.like(speaker.model)
    torch.nn.init.normal_(critic.head[-1].weight)
    ids = torch.arange(3, 15).reshape(2, 6)
    seen = ids, torch.ones_like(ids), torch.ones(2, 4, dtype=torch.bool)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        states = critic.states(*seen)
        values = critic(*seen, states=states)
    assert values.dtype is states.dtype is torch.float32
    assert torch.equal(values, critic.head(states).squeeze(-1))


def test_of_all_layers_states_the_critic_keeps_the_two_that_it_reads(tokens, monkeypatch):
    model = tiny_model(tokens, layers=5)
    critic = ppo.Critic.like(model)
    ids = torch.arange(3, 15).reshape(2, 6)
    seen = torch.ones(2, 4, dtype=torch.bool)
    with torch.no_grad():
        every = model.model(ids, output_hidden_states=True).hidden_states
    read, kept = critic.network.forward, []
    monkeypatch.setattr(
        critic.network, "forward", lambda **given: kept.append(read(**given)) or kept[-1]
    )
    found = critic.states(ids, torch.ones_like(ids), seen)
    assert [state is not None for state in kept[0].hidden_states] == [0, 0, 0, 1, 0, 1]
    width = model.config.hidden_size
    wanted = [every[at][:, 1:-1][seen] for at in (3, 5)]
    assert torch.equal(found, torch.cat([F.layer_norm(w, (width,)) for w in wanted], -1))


@pytest.mark.parametrize("learns", [False, True])
def test_a_trunk_that_learns_saves_memory_where_the_policy_does(speaker, learns):
    policy = copy.deepcopy(speaker.model)
    policy.gradient_checkpointing_enable()  # as an earlier stage leaves it
    for wanted in (True, False):
        network = ppo.Critic.like(policy, learns, wanted).network
        assert (network.is_gradient_checkpointing and network.training) == (learns and wanted)


def test_the_users_tokens_move_neither_policy_nor_critic(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)

    def gradient(inputs):
        stage.trainer.accelerator.gradient_state._set_sync_gradients(False)
        stage.trainer.model.zero_grad()
        stage.trainer._compute_loss(stage.trainer.model, inputs).backward()
        return [p.grad.clone() for p in stage.trainer.model.parameters() if p.grad is not None]

    inputs = {k: v for k, v in stage.inputs.items() if v is not None}
    loud = torch.where(stage.mask, inputs["advantages"], 50.0)
    pairs = zip(gradient(inputs), gradient(inputs | {"advantages": loud}), strict=True)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in pairs)

    begun = copy.deepcopy(stage.learner.critic.state_dict())

    def taught(returns):
        stage.learner.critic.load_state_dict(begun)
        stage.learner.optimiser.state.clear()
        stage.trainer._teach(stage.parts, returns)
        return copy.deepcopy(stage.learner.critic.state_dict())

    one, other = taught(stage.returns), taught(torch.where(stage.mask, stage.returns, 50.0))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], begun[name]) for name in one)


def test_the_critic_learns_the_same_whatever_the_size_of_its_parts(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)

    def gradient(parts):
        stage.learner.step = lambda norm: None
        stage.trainer._teach(parts, stage.returns)
        found = [p.grad.clone() for p in stage.learner.critic.head.parameters()]
        stage.learner.critic.zero_grad()
        return found

    whole = ppo._Part(*(
        torch.cat([getattr(part, name) for part in stage.parts]) for name in vars(stage.parts[0])
    ))  # fmt: skip
    assert len(stage.parts) == 2
    pairs = zip(gradient(stage.parts), gradient([whole]), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-9) for a, b in pairs)


def test_the_critic_comes_to_foresee_what_depends_on_the_words_so_far(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    said = stage.inputs["completion_ids"].roll(1, dims=1)
    aims = torch.where(stage.mask, torch.sin(said.float()), 0.0)

    def explained():
        found = torch.cat([stage.trainer._valued(part).detach() for part in stage.parts])
        values = torch.zeros_like(aims).masked_scatter(stage.mask, found)
        return stage.trainer._explained(values, aims, stage.mask)

    before = explained()
    for group in stage.learner.optimiser.param_groups:
        group["lr"] = 1e-2
    for _ in range(20):
        for part in stage.parts:  # as a new batch would
            part.values = stage.trainer._valued(part).detach()
        stage.trainer._teach(stage.parts, aims)
    assert before < 0.2 < 0.8 < explained()


@pytest.mark.parametrize("learns", [False, True])
def test_the_trunk_of_the_critic_learns_where_it_is_told_to(speaker, tmp_path, learns):
    critic = ppo.Critic.like(speaker.model, learns)
    begun = copy.deepcopy(critic.network.state_dict())
    stage = Stage(speaker, tmp_path, config=changed(ppo={"learn_trunk": learns, "passes": 2}))
    now = stage.learner.critic.network.state_dict()
    assert any(not torch.equal(now[name], begun[name]) for name in begun) == learns


def test_a_batch_of_equal_returns_is_not_blown_up(speaker, tmp_path):
    stage = Stage(speaker, tmp_path)
    tiny = torch.where(stage.mask, 0.3 + 1e-6 * torch.randn(stage.mask.shape), 0.0)
    assert float(stage.trainer._whitened(tiny, stage.mask).abs().max()) < 1e-3
    assert math.isnan(stage.trainer._explained(tiny, tiny, stage.mask))


@pytest.mark.parametrize("learns", [False, True])
def test_the_critic_and_its_optimiser_come_back_from_a_checkpoint(speaker, tmp_path, learns):
    begun = copy.deepcopy(speaker.model)
    kinds = {"learn_trunk": learns, "passes": 2}
    stage = Stage(speaker, tmp_path, config=changed(ppo=kinds))
    stage.learner.save(tmp_path)
    names = set(load_file(tmp_path / ppo.CRITIC))
    assert any(name.startswith("network.") for name in names) == learns, "what stands still is not"
    if learns:
        with torch.no_grad():  # a policy that has learnt in the meantime
            for weight in begun.parameters():
                weight.add_(0.1)
    config = changed(ppo={"warmup_steps": 4, **kinds})
    other = ppo.CriticLearner(ppo.Critic.like(begun, learns), config, done=1)
    other.load(tmp_path)
    pairs = zip(stage.learner.critic.parameters(), other.critic.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert other.critic.head[-1].weight.any(), "it had learnt something"
    one, same = (x.optimiser.state_dict()["state"] for x in (stage.learner, other))
    assert one.keys() == same.keys()
    for number, moments in one.items():
        assert all(torch.equal(moments[name], same[number][name]) for name in moments)
    assert other.optimiser.param_groups[0]["lr"] == pytest.approx(2 / 5 * config.ppo.learning_rate)


def test_the_critics_network_is_no_part_of_the_policy(speaker, tmp_path):
    names = set(speaker.model.state_dict())
    stage = Stage(speaker, tmp_path)
    assert set(stage.trainer.model.state_dict()) == names
    shared = {p.data_ptr() for p in speaker.model.parameters()}
    assert not shared & {p.data_ptr() for p in stage.learner.critic.parameters()}


def test_training_with_a_critic_raises_the_reward(speaker, tmp_path):
    config = recipe(
        **{"rl.algorithm": "ppo", "rl.steps": 26, "rl.group": 1, "rl.prompts_per_step": 32,
           "rl.learning_rate": 2e-2, "reward.credit": "turn", "ppo.learning_rate": 1e-3}
    )  # fmt: skip
    rows = train(config, speaker, tmp_path, make=Speller)
    first, last = (sum(r["reward"] for r in part) / 3 for part in (rows[:3], rows[-3:]))
    assert last > first + 0.2, f"reward {first:.2f} -> {last:.2f}"
    assert all(row["value_loss"] >= 0 for row in rows)
    assert sum(row["explained_variance"] for row in rows[-5:]) > 0
    assert all(row["explained_outcome"] <= 1 and row["tied_groups"] is None for row in rows)
