"""The seedling's tokenizer, chat template and untrained network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartloop.errors import extra
from heartloop.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

USER, ASSISTANT, END, PAD, PLAN = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>", "<|plan|>"
SPECIAL = (PAD, END, USER, ASSISTANT, PLAN)
"""Their ids are 0 to 4."""
THINK = ("<think>", "</think>")
VOCABULARY = 4096
CONTEXT = 1024
SHAPE = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 640,
}  # fmt: skip
TEMPLATE = (
    "{%- if enable_thinking is defined and enable_thinking %}{{ '<|plan|>' }}{% endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{ '<|user|>' + message.content + '<|end|>' }}"
    "{%- elif message.role == 'assistant' %}{{ '<|assistant|>' }}"
    "{%- generation %}{{ message.content + '<|end|>' }}{% endgeneration %}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""System messages are left out: the seedling has learnt none."""


def tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`."""
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast
    except ImportError as cause:
        raise extra("train", cause) from cause
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(THINK),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in THINK])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=PAD, padding_side="left",
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
        additional_special_tokens=[USER, ASSISTANT, PLAN],
    )  # fmt: skip
    made.chat_template = TEMPLATE
    return made


def network(
    seed: int, size: int, pad: int, end: int, shape: Mapping[str, int] = SHAPE
) -> Qwen3ForCausalLM:
    """An untrained network of Qwen3's architecture with a vocabulary of `size`."""
    try:
        import torch
        from transformers import Qwen3Config, Qwen3ForCausalLM
    except ImportError as cause:
        raise extra("train", cause) from cause
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=size, tie_word_embeddings=True, max_position_embeddings=CONTEXT,
        pad_token_id=pad, eos_token_id=end, bos_token_id=None, attention_dropout=0.0, **shape,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    # Embeddings of length 1: a token the network looks at stands out in its tied output at once.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=config.hidden_size**-0.5)
    return model


def save(model: Any, tokens: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write config, half-precision weights and tokenizer; the model itself stays as it is."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokens.save_pretrained(folder)


def encode(
    tokens: PreTrainedTokenizerFast, messages: Sequence[Message], planned: bool
) -> tuple[list[int], list[bool]]:
    """Token ids of a dialogue, and which of them the policy says."""
    ids: list[int] = tokens.convert_tokens_to_ids([PLAN]) if planned else []
    said = [False] * len(ids)
    user, assistant, end = tokens.convert_tokens_to_ids([USER, ASSISTANT, END])
    for message in messages:
        own = message.role == "assistant"
        body = tokens.encode(message.content, add_special_tokens=False)
        ids += [assistant if own else user, *body, end]
        said += [False, *[own] * (len(body) + 1)]
    return ids, said
