"""Credit adds up to the reward, and the estimation does not see the user's tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heartloop.policy.train import credit

CHANGES = st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=9)


@given(CHANGES, st.floats(-1, 2), st.booleans())
def test_what_the_turns_earn_adds_up_to_the_reward(changes, reward, by_turn):
    earned = credit.shares(reward, changes, by_turn)
    assert len(earned) == len(changes)
    assert sum(earned) == pytest.approx(reward)


def test_terminal_credit_goes_to_the_last_turn_and_turn_credit_to_each():
    assert credit.shares(0.5, [0.1, -0.1, 0.2], by_turn=False) == [0, 0, 0.5]
    assert credit.shares(0.5, [0.1, -0.1, 0.2], by_turn=True) == [0.1, -0.1, 0.5]
    assert credit.shares(0.5, [], by_turn=True) == []


@given(st.lists(st.tuples(st.floats(0, 1), CHANGES), min_size=2, max_size=6), st.booleans())
def test_advantages_of_a_first_turn_add_up_to_nothing(group, centred):
    found = credit.turn_advantages(group, centred, 1.0)
    assert [len(row) for row in found] == [len(changes) for _, changes in group]
    if not centred:
        assert sum(row[0] for row in found) == pytest.approx(0, abs=1e-9)
    else:
        same = [(0.4, [0.1] * 3), (0.4, [0.1] * 3)]
        assert credit.turn_advantages(same, centred, 1.0) == [pytest.approx([0] * 3)] * 2


def test_centred_credit_is_the_outcome_and_the_own_change_against_the_group():
    rows = credit.turn_advantages([(0.6, [0.1, 0.1]), (0.4, [0.1, -0.1])], True, 1 - credit.TIE)
    assert rows[0] == pytest.approx([0.1 + 0.05, 0.1 + 0.05])
    assert rows[1] == pytest.approx([-0.1 + 0.05, -0.1 - 0.15])


def test_a_dialogue_without_a_reward_has_no_advantage_and_enters_no_mean():
    alone = [(0.6, [0.1, 0.1]), (0.2, [0.0, -0.1])]
    beside = [(0.6, [0.1, 0.1]), (None, [0.1]), (0.2, [0.0, -0.1])]
    for centred in (False, True):
        first, none, second = credit.turn_advantages(beside, centred, 0.3)
        assert [first, second] == credit.turn_advantages(alone, centred, 0.3)
        assert none == [0.0]
    assert credit.turn_advantages([(None, [0.1])], True, 1.0) == [[0.0]]


def test_values_of_turns_are_laid_over_their_tokens():
    like = torch.zeros(2, 5)
    over = credit.over_tokens([[1.0, 2.0], [3.0]], [[1, 4], [0]], like)
    assert over.tolist() == [[1, 1, 2, 2, 2], [3, 0, 0, 0, 0]]
    at = credit.at_ends([[1.0, 2.0], [3.0]], [[1, 4], [0]], like)
    assert at.tolist() == [[0, 1, 0, 0, 2], [3, 0, 0, 0, 0]]


def plain(rewards, values, gamma, lam):
    """The textbook estimation, of one row without other tokens."""
    advantages, later = [0.0] * len(values), 0.0
    for at in reversed(range(len(values))):
        coming = values[at + 1] if at + 1 < len(values) else 0.0
        later = rewards[at] + gamma * coming - values[at] + gamma * lam * later
        advantages[at] = later
    return advantages


TOKENS = st.lists(
    st.tuples(st.booleans(), st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)),
    min_size=1, max_size=12,
)  # fmt: skip


@given(TOKENS, st.floats(0.5, 1), st.floats(0, 1))
def test_the_users_tokens_are_transparent(tokens, gamma, lam):
    mask = torch.tensor([[own for own, _, _ in tokens]])
    rewards = torch.tensor([[r for _, r, _ in tokens]]).double()
    values = torch.tensor([[v for _, _, v in tokens]]).double()
    advantages, returns = credit.gae(rewards, values, mask, gamma, lam)
    own = [(r, v) for is_own, r, v in tokens if is_own]
    expected = plain([r for r, _ in own], [v for _, v in own], gamma, lam)
    assert advantages[mask].tolist() == pytest.approx(expected, abs=1e-9)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def test_without_discount_returns_are_the_rewards_that_are_still_to_come():
    mask = torch.tensor([[True, False, True, True]])
    rewards = torch.tensor([[0.0, 9.0, 0.5, 1.0]])
    values = torch.tensor([[0.3, 7.0, -0.2, 0.1]])
    _, returns = credit.gae(rewards, values, mask, 1.0, 1.0)
    assert returns.tolist() == [pytest.approx([1.5, 0.0, 1.5, 1.0])]
