"""Answers kept on disk, so that the same question is paid for once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from heartloop.errors import InvalidInput, OutputRefused
from heartloop.llm.base import ChatModel, Completion, Decoding, StreamingModel, unheard
from heartloop.llm.ledger import LEDGER, Usage, bare
from heartloop.types import Message


class CachedModel:
    """A model whose answers are kept in a folder, each named by the hash of its question."""

    def __init__(self, model: ChatModel, folder: str | Path) -> None:
        """Keep the answers of `model` in `folder`."""
        self._model, self._folder, self.spec = model, Path(folder), model.spec

    async def __call__(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> Completion:
        """The kept answer, or a new one, which is then kept.

        Raises:
            InvalidInput: the decoding is random and has no seed: no two answers need be alike.
            OutputRefused: the folder cannot be written.
            CallFailure: as the model.
            EndpointFailure: as the model.
        """
        place = self._place(messages, decoding)
        if kept := self._found(place, purpose):
            return kept
        completion = await self._model(messages, decoding, purpose)
        _keep(place, completion)
        return completion

    def _found(self, place: Path, purpose: str) -> Completion | None:
        """The kept answer, booked."""
        kept = _kept(place)
        if kept is None:
            return None
        LEDGER.book(self.spec, purpose, Usage(calls=1, cached=1))
        return kept.model_copy(update={"cached": True})

    def _place(self, messages: Sequence[Message], decoding: Decoding) -> Path:
        """Where the answer to a question lies."""
        if decoding.temperature > 0 and decoding.seed is None:
            raise InvalidInput(
                f"a cached model expects temperature 0 or a seed, got temperature "
                f"{decoding.temperature!r} and no seed: set Decoding.seed, or leave the cache out"
            )
        question = {
            "model": bare(self._model.spec),
            "messages": [m.model_dump() for m in messages],
            "decoding": decoding.model_dump(),
        }
        name = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        return self._folder / name[:2] / name[2:4] / f"{name}.json"


class CachedStream(CachedModel):
    """A cached model that says a new answer as it is made, and a kept one at once."""

    _model: StreamingModel

    async def stream(
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        purpose: str = "",
        ended: Callable[[Completion], None] = unheard,
    ) -> AsyncGenerator[str]:
        """Pieces of one answer; see `StreamingModel`. One that breaks off is not kept.

        Raises:
            OutputRefused: the folder cannot be written; all pieces were given.
        """
        # Of these a stream brings nothing, so its answer is none to a question that asks for them.
        free = decoding.model_copy(update={"json_schema": None, "form": "", "top_logprobs": 0})
        place = self._place(messages, free)
        answer = self._found(place, purpose)
        if answer:
            yield answer.text
        else:
            new: list[Completion] = []
            given = self._model.stream(messages, free, purpose, new.append)
            async with aclosing(given):
                async for piece in given:
                    yield piece
            (answer,) = new
            _keep(place, answer)
        ended(answer)


def cached(model: ChatModel, folder: str | Path) -> CachedModel:
    """A model with its answers kept; it streams where the model does."""
    kind = CachedStream if isinstance(model, StreamingModel) else CachedModel
    return kind(model, folder)


def _kept(place: Path) -> Completion | None:
    """What lies there; a file that cannot be read counts as nothing and is written anew."""
    try:
        return Completion.model_validate_json(place.read_bytes())
    except (OSError, ValidationError):
        return None


def _keep(place: Path, completion: Completion) -> None:
    """Write beside the place and rename, so that no reader meets half a file."""
    draft = place.with_suffix(f".{uuid4().hex}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(completion.model_dump_json().encode())
        os.replace(draft, place)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise OutputRefused(
            f"cannot write the cache {place.parent}: {error.strerror}; name another folder"
        ) from error
