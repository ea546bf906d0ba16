"""Chat models of three families, small enough for a test: architecture, tokens, template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from heartloop.simusers.scenario import pack

FAMILIES = ("qwen2.5", "qwen3", "llama")
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
SPECIAL = {
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama": (
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
        "<|eot_id|>",
    ),
}  # fmt: skip
CHATML = """\
{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""A system message of its own where none is given."""
THINKING = """\
{%- set place = namespace(asked=-1) %}
{%- for m in messages %}
{%- if m.role == 'user' %}{%- set place.asked = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n')
    if '</think>' in m.content else '' %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > place.asked %}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}{%- endif %}
{{- said + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""
"""Think blocks before the last question are left out; without thinking, an empty one is given."""
HEADERS = """\
{%- if not date_string is defined %}
{%- set date_string = strftime_now('%d %b %Y') %}
{%- endif %}
{{- '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string }}
{%- if messages[0].role == 'system' %}
{{- '\\n\\n' + messages[0].content | trim }}
{%- set messages = messages[1:] %}
{%- endif %}
{{- '<|eot_id|>' }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
"""The system message tells the date, and no text keeps the spaces around it."""
TEMPLATES = {"qwen2.5": CHATML, "qwen3": THINKING, "llama": HEADERS}


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the family's control tokens, trained on what people say."""
    special = SPECIAL["llama" if family == "llama" else "qwen"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        [s.opener for s in pack("train")[:60]],
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=list(special), show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    if family == "qwen3":
        core.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>")])
    if family == "llama":
        core.post_processor = TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
        )
    # Llama names no padding.
    names = {"bos_token": special[0]} if family == "llama" else {"pad_token": special[0]}
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=special[-1], clean_up_tokenization_spaces=False, **names
    )
    if family != "llama":
        made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = TEMPLATES[family]
    return made


def network(family: str, tokens: PreTrainedTokenizerFast) -> Any:
    """Random weights in the family's architecture."""
    shape = {
        "vocab_size": len(tokens) + 8, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 2048, "eos_token_id": tokens.eos_token_id,
        "bos_token_id": tokens.bos_token_id, "pad_token_id": tokens.pad_token_id,
        "tie_word_embeddings": family != "llama",
    }  # fmt: skip
    torch.manual_seed(3)
    if family == "qwen2.5":
        model: Any = Qwen2ForCausalLM(Qwen2Config(**shape))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=32))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    # As published: a model may end in either of two ways.
    ends = ["<|end_of_text|>" if family == "llama" else "<|endoftext|>", tokens.eos_token]
    model.generation_config.eos_token_id = tokens.convert_tokens_to_ids(ends[::-1])
    with torch.no_grad():  # an end of turn now and then
        model.get_output_embeddings().weight[tokens.eos_token_id] *= 4
    return model.eval()


def build(family: str, folder: Path) -> Path:
    """Write a chat model of a family to a folder."""
    tokens = tokenizer(family)
    network(family, tokens).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
