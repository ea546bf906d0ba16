"""A seedling in miniature, untrained, for tests of everything around it."""

from pathlib import Path

from heartloop.policy.seedling import build, corpus

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 48,
}


def tiny(folder: Path) -> Path:
    """Save an untrained network with a tokenizer of a few dialogues."""
    texts = [m.content for d in corpus.dialogues(12, 3) for m in d.messages]
    tokens = build.tokenizer(texts)
    pad, end = tokens.convert_tokens_to_ids([build.PAD, build.END])
    build.save(build.network(5, len(tokens), pad, end, SHAPE), tokens, folder)
    return folder
