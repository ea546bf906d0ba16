"""Language models behind one contract: over HTTP, in this process, or scripted."""

from heartloop.llm.base import ChatModel, Completion, Decoding, TokenLogprob, complete
from heartloop.llm.ledger import LEDGER
from heartloop.llm.scripted import ScriptedModel
from heartloop.llm.spec import make_model

__all__ = [
    "LEDGER",
    "ChatModel",
    "Completion",
    "Decoding",
    "ScriptedModel",
    "TokenLogprob",
    "complete",
    "make_model",
]
