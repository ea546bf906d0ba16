"""A chat model of a few hundred thousand random weights that can end what it began."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

CONTEXT = 8192
"""Holds the prompts of a SAGE user and the longest answer it asks for."""
SCALE = 6
"""Of the matrices; as they are made, every token would be about as likely as any other."""
BIAS = 70.0
"""Towards the quotation mark: it is the likeliest token in more than every second place."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path) -> None:
    """Write weights, tokenizer and chat template to a folder."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    _speak(model, tokenizer.convert_tokens_to_ids('"'))
    model.save_pretrained(folder)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prompts = files("heartloop.simusers").joinpath("prompts", "en")
    pages = sorted(page.name for page in prompts.iterdir())
    bpe.train_from_iterator((prompts.joinpath(page).read_text("utf-8") for page in pages), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )


def _speak(model: Any, quote: int) -> None:
    """Make the choice of a token decided, and that of a quotation mark likely.

    The first number of the hidden state is kept the same everywhere, so that it serves as the bias
    that the architecture has not: without it a random model would not come to the end of a string.
    """
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(SCALE)
        model.model.embed_tokens.weight[:, 0] = 0.05
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[quote, 0] = BIAS
