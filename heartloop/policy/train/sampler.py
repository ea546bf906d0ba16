"""A vLLM engine that draws the replies of the model in training, with its weights as they are now.

The engine lives in the trainer's process, on its GPU. Its arithmetic is not the trainer's: it gives
the log-probability of each token that it drew, by which the loss weighs the token anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from heartloop.config import TrainConfig
from heartloop.llm.vllm import VllmSampler
from heartloop.policy.model import LanguageModel


class Sampler:
    """Keeps an engine in step with a model, and begins batches of dialogues with it."""

    def __init__(self, speaker: LanguageModel, config: TrainConfig) -> None:
        """Build an engine for the network of `speaker`, without weights until `sync_weights`.

        Raises:
            MissingExtra: vLLM is not installed, or not for this machine.
            InvalidInput: vLLM has no such network.
        """
        self._model, self._ends = speaker.model, speaker.end_ids
        self._limit, self._temperature = config.policy.max_new_tokens, config.policy.temperature
        # An engine reads a folder, and the model in training lies in none.
        self._folder = TemporaryDirectory(prefix="hl-vllm-")
        speaker.model.config.save_pretrained(self._folder.name)
        speaker.tokenizer.save_pretrained(Path(self._folder.name))
        self._engine = VllmSampler(self._folder.name)

    def close(self) -> None:
        """Give back the engine's memory, and the folder."""
        self._engine.close()
        self._folder.cleanup()

    def sync_weights(self) -> None:
        """Take over the weights as they are; TRL calls it before dialogues, by this name."""
        self._engine.push(weights(self._model))

    def talk(self) -> VllmTalk:
        """Begin a batch of dialogues."""
        return VllmTalk(self._engine, self._ends, self._limit, self._temperature)


class VllmTalk:
    """Dialogues under way, as `heartloop.policy.decode.Talk`; the engine keeps what it computed."""

    def __init__(
        self, engine: VllmSampler, ends: Sequence[int], limit: int, temperature: float
    ) -> None:
        """Sample at most `limit` tokens a reply, until one of the tokens `ends`."""
        self._engine, self._ends = engine, ends
        self._limit, self._temperature = limit, temperature
        self._said: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[float]] = {}
        """Of the tokens of the last replies, by dialogue number."""

    def reply(
        self, added: Mapping[int, Sequence[int]], seeds: Mapping[int, int]
    ) -> dict[int, list[int]]:
        """Append tokens to dialogues and sample a reply to each, by dialogue number."""
        contexts = [[*self._said.get(n, ()), *ids] for n, ids in added.items()]
        drawn = self._engine.draw(
            contexts, [seeds[n] for n in added], self._limit, self._temperature, self._ends
        )
        replies = {n: ids for n, (ids, _) in zip(added, drawn, strict=True)}
        self.logprobs = {n: chances for n, (_, chances) in zip(added, drawn, strict=True)}
        self._said = {
            n: [*context, *replies[n]] for n, context in zip(added, contexts, strict=True)
        }
        return replies


def weights(model: Any) -> Iterator[tuple[str, Any]]:
    """A model's weights by the names of its architecture, low-rank adapters added in.

    The model itself stays as it is: adapters put in and taken out again would leave rounding in it.
    """
    if not hasattr(model, "peft_config"):
        yield from ((name, weight.data) for name, weight in model.named_parameters())
        return
    base = model.get_base_model()
    layers = {f"{name}.": part for name, part in base.named_modules() if hasattr(part, "lora_A")}
    for name, weight in base.named_parameters():
        place, held, rest = name.partition("base_layer.")
        if held:
            own = layers[place].get_delta_weight("default") if rest == "weight" else 0
            yield place + rest, weight.data + own
        elif ".lora_" not in name:
            yield name, weight.data
