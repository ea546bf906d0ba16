"""The cache that is kept from turn to turn changes no reply."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from heartloop.errors import InvalidInput
from heartloop.policy.decode import Talk, noise, pick

ENDS, LIMIT = frozenset(range(10)), 6
ADDED = [
    {0: [5, 6, 7], 1: [9], 2: [4, 4, 4, 4, 4, 8]},
    {0: [3], 1: [30, 31, 32, 33], 2: [12, 13]},
    {0: [20, 21], 2: [22]},
    {2: [17, 18, 19]},
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    config = Qwen3Config(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=48, tie_word_embeddings=True,
    )  # fmt: skip
    made = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        made.model.embed_tokens.weight.mul_(8)
    return made


def turns(model) -> list[dict[int, list[int]]]:
    talk = Talk(model, ENDS, LIMIT, 1.0)
    return [
        talk.reply(added, {n: 10 * n + turn for n in added}) for turn, added in enumerate(ADDED)
    ]


def test_replies_equal_those_sampled_from_the_whole_context(model):
    """Each token is what its noise picks from a plain forward pass over everything before it."""
    contexts: dict[int, list[int]] = {0: [], 1: [], 2: []}
    replies = turns(model)
    for turn, (added, replied) in enumerate(zip(ADDED, replies, strict=True)):
        assert list(replied) == list(added)
        for number, reply in replied.items():
            contexts[number] += added[number]
            aims = noise([10 * number + turn], LIMIT)[0]
            for step, token in enumerate(reply):
                with torch.no_grad():
                    logits = model(torch.tensor([contexts[number]])).logits[:, -1]
                assert pick(logits, aims[step : step + 1], 1.0).item() == token
                contexts[number].append(token)
            assert not ENDS & set(reply[:-1])
            assert reply[-1] in ENDS or len(reply) == LIMIT
    lengths = {len(reply) for replied in replies for reply in replied.values()}
    assert len(lengths) > 1, "the check needs replies of unequal length"


def test_a_dialogue_does_not_depend_on_those_beside_it(model):
    together = turns(model)
    talk = Talk(model, ENDS, LIMIT, 1.0)
    alone = [talk.reply({2: added[2]}, {2: 20 + turn})[2] for turn, added in enumerate(ADDED)]
    assert alone == [replied[2] for replied in together]


def test_a_dialogue_that_was_let_go_cannot_come_back(model):
    talk = Talk(model, ENDS, LIMIT, 1.0)
    talk.reply({0: [5], 1: [6]}, {0: 0, 1: 0})
    talk.reply({1: [6]}, {1: 0})
    with pytest.raises(InvalidInput, match=r"\[0\] are not under way"):
        talk.reply({0: [5]}, {0: 0})


def test_the_share_of_a_token_is_its_probability():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(3000, 3)
    drawn = pick(logits, noise([1], 3000)[0], 2.0)
    shares = torch.bincount(drawn, minlength=3) / 3000
    assert torch.allclose(shares, torch.softmax(logits[0] / 2.0, 0), atol=0.03)


def test_noise_comes_from_each_seed_alone():
    assert torch.equal(noise([1, 2], 4)[1], noise([2], 4)[0])
    assert not torch.equal(noise([1], 4), noise([2], 4))
