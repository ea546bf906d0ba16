"""A language model small enough to be trained within a test, and a user that it can please."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from heartloop.policy.model import LanguageModel
from heartloop.policy.seedling import build
from heartloop.simusers.scenario import pack

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokens():
    """A tokenizer of some 600 tokens."""
    texts = [s.opener for s in pack("train")[:60]]
    return build.tokenizer(texts)


def tiny_model(tokens, seed: int = 0, layers: int = 2) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=64, tie_word_embeddings=True,
        pad_token_id=tokens.pad_token_id, eos_token_id=tokens.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():  # an end of turn now and then
        model.model.embed_tokens.weight[tokens.eos_token_id] *= 4
    return model


@pytest.fixture
def speaker(tokens) -> LanguageModel:
    """An untrained language model, the same each time."""
    return LanguageModel(tiny_model(tokens), tokens)


@pytest.fixture
def folder(tokens, tmp_path):
    """The same model as a folder."""
    tiny_model(tokens).save_pretrained(tmp_path / "model")
    tokens.save_pretrained(tmp_path / "model")
    return tmp_path / "model"
