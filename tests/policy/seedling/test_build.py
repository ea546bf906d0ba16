import json

import pytest

from heartloop.policy.seedling import build, corpus
from heartloop.types import Message
from tests.policy.seedling.tiny import tiny

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny(tmp_path_factory.mktemp("tiny")))


def test_own_encoding_and_the_chat_template_agree_on_ids_and_mask(tokens):
    for dialogue in corpus.dialogues(12, 5):
        ids, said = build.encode(tokens, dialogue.messages, dialogue.planned)
        rows = [m.model_dump() for m in dialogue.messages]
        both = tokens.apply_chat_template(
            rows, tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
            enable_thinking=dialogue.planned,
        )  # fmt: skip
        assert both["input_ids"] == ids
        assert [bool(m) for m in both["assistant_masks"]] == said


def test_only_the_helpers_words_and_their_end_are_learnt(tokens):
    messages = [Message(role="user", content="I am sad."), Message(role="assistant", content="Oh.")]
    ids, said = build.encode(tokens, messages, planned=False)
    learnt = [i for i, own in zip(ids, said, strict=True) if own]
    assert tokens.decode(learnt) == " Oh.<|end|>"


@pytest.mark.parametrize(
    "text", ["I'm at 5:30, ok?", "caf\u00e9 \u2014 \u65e5\u672c \U0001f642", "a\nb"]
)
def test_any_text_survives_encoding(tokens, text):
    assert tokens.decode(tokens.encode(text, add_special_tokens=False)).strip() == text


def test_think_tags_are_single_tokens_that_decoding_keeps(tokens):
    ids = tokens.encode("<think>plan</think> Hello", add_special_tokens=False)
    assert tokens.convert_ids_to_tokens(ids)[0] == "<think>"
    assert "</think>" in tokens.decode(ids, skip_special_tokens=True)


def test_what_is_saved_is_json_and_safetensors_in_half_precision(tmp_path):
    folder = tiny(tmp_path / "model")
    assert {p.suffix for p in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {str(file.get_tensor(k).dtype) for k in file.keys()} == {"torch.float16"}  # noqa: SIM118


def test_the_same_seed_builds_the_same_network():
    import torch

    from tests.policy.seedling.tiny import SHAPE

    one, two, other = (build.network(seed, 300, 0, 1, SHAPE) for seed in (1, 1, 2))
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
