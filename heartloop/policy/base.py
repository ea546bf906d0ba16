"""Policies by name: scripted ones, the shipped seedling, any causal LM, any endpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from heartloop.env.play import Policy, Prompt
from heartloop.errors import InvalidInput, unknown
from heartloop.llm import Decoding, make_model
from heartloop.llm.ledger import bare
from heartloop.policy import scripted
from heartloop.policy.chat import chat_policy
from heartloop.policy.evals.hackers import hacker
from heartloop.policy.loops import LOOPS, Budget
from heartloop.policy.loops.dialogue import companion
from heartloop.policy.model import LanguageModel, ModelPolicy, Sampling

__all__ = ["SEEDLING", "Policy", "Prompt", "make_policy", "policy_names"]

SEEDLING = Path(__file__).parent / "seedling" / "weights"
"""Folder of the shipped weights."""
CHECKPOINTS = "checkpoint-*"


def policy_names() -> list[str]:
    """The names that `make_policy` knows besides folders."""
    return sorted([*scripted.SCRIPTED, "seedling"])


def make_policy(
    spec: str, sampling: Sampling | None = None, *, thinking: bool = False,
    device: str | None = None, exact: bool = False,
) -> Policy:  # fmt: skip
    """The policy that `spec` stands for.

    Args:
        spec: A scripted policy's name, "seedling", "hf:" with a folder or hub id, a folder that
            holds a model or a training run (its newest checkpoint is taken), or a chat model as
            "openai:NAME@URL" or "vllm:PATH", or a reward hacker as "hacker:NAME"; or any of them
            in a test-time loop, "LOOP:POLICY", where "LOOP@N:POLICY" draws N samples a reply.
        sampling: How a model draws its replies.
        thinking: Ask the model's chat template for a think block.
        device: Where the model runs; None takes an accelerator when there is one.
        exact: Keep its weights in full precision there too.

    Raises:
        UnknownName: nothing of that name is known.
        InvalidInput: the folder holds no model, or N is no number above 0.
    """
    head, colon, inner = spec.partition(":")
    if colon and head.partition("@")[0] in LOOPS:
        return _wrapped(head, make_policy(inner, sampling, thinking=thinking, device=device))
    if spec in scripted.SCRIPTED:
        return scripted.make(spec)
    if head == "hacker":
        return hacker(inner)
    if spec.startswith(("openai:", "vllm:")):
        return chat_policy(make_model(spec), bare(spec), _decoding(sampling))
    path, name = _place(spec)
    model = LanguageModel.load(path, thinking=thinking, device=device, exact=exact)
    return ModelPolicy(model, sampling or Sampling(), name)


def check_policy(spec: str) -> None:
    """See that `make_policy` knows the name or finds the folder; no model is loaded.

    Raises:
        UnknownName: nothing of that name is known.
        InvalidInput: the folder holds no model.
    """
    head, colon, inner = spec.partition(":")
    if colon and head.partition("@")[0] in LOOPS:
        check_policy(inner)
    elif head == "hacker":
        hacker(inner)
    elif spec not in scripted.SCRIPTED and not spec.startswith(("openai:", "vllm:")):
        _place(spec)


def _wrapped(head: str, policy: Policy) -> Policy:
    """The loop that is written "LOOP" or "LOOP@N", around a policy."""
    name, at, samples = head.partition("@")
    if not at:
        return companion(name, policy)
    if not (samples.isascii() and samples.isdigit() and int(samples)):
        raise InvalidInput(f"expected a number of samples above 0 in {head!r}, got {samples!r}")
    # Runs that cost differently must not go by one name.
    return replace(companion(name, policy, Budget(samples=int(samples))), label=head)


def _decoding(sampling: Sampling | None) -> Decoding:
    """How a chat model answers: long enough for whatever it has to say, unless told otherwise."""
    if sampling is None:
        return Decoding(temperature=1.0, max_tokens=1024)
    return Decoding(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_new_tokens,
    )


def _place(spec: str) -> tuple[str, str]:
    """Where a spec's model lies, and the policy's name."""
    if spec == "seedling":
        return str(SEEDLING), spec
    if spec.startswith("hf:"):
        return spec[3:], spec
    folder = Path(spec)
    if not folder.is_dir():
        _, colon, inner = spec.partition(":")
        loops = [f"{name}:{inner}" for name in LOOPS] if colon else []
        raise unknown("policy", spec, [*policy_names(), *loops])
    return str(_model_folder(folder)), spec


def _model_folder(folder: Path) -> Path:
    """The folder itself, its model, or its newest checkpoint."""

    def newest(path: Path) -> int:
        return int(path.name.rsplit("-", 1)[1])

    numbered = [p for p in folder.glob(CHECKPOINTS) if p.name.rsplit("-", 1)[1].isdigit()]
    for place in (folder, folder / "model", *sorted(numbered, key=newest, reverse=True)):
        if (place / "tokenizer_config.json").is_file():
            return place
    raise InvalidInput(
        f"{folder} holds no model: expected tokenizer_config.json in it, in model/ or in "
        f"{CHECKPOINTS}"
    )
