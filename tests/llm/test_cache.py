"""Checks of the cache of answers."""

import asyncio

import pytest

from heartloop.errors import CallFailure, InvalidInput, OutputRefused
from heartloop.llm import LEDGER, Decoding, ScriptedModel, complete
from heartloop.llm.cache import CachedModel
from heartloop.llm.ledger import Usage
from heartloop.types import Message

ASKED = [Message(role="user", content="How are you?")]
COLD = Decoding(json_schema={"type": "object"})


def counted(*answers: str) -> ScriptedModel:
    return ScriptedModel(list(answers))


def test_a_hit_does_not_call_and_is_booked_as_cached(tmp_path):
    model = CachedModel(counted("only once"), tmp_path)
    first = complete(model, ASKED, COLD, "cache-test")
    second = complete(CachedModel(counted(), tmp_path), ASKED, COLD, "cache-test")
    assert (first.cached, second.cached) == (False, True)
    assert second == first.model_copy(update={"cached": True})
    booked = LEDGER.entries()[("scripted", "cache-test")]
    assert (booked.calls, booked.cached, booked.failures) == (2, 1, 0)
    assert isinstance(booked, Usage)


def test_another_question_is_another_entry(tmp_path):
    model = CachedModel(counted(*"abcdefg"), tmp_path)
    decodings = [
        COLD,
        Decoding(),
        Decoding(seed=1),
        Decoding(seed=2),
        Decoding(temperature=0.5, seed=1),
        Decoding(max_tokens=7),
    ]
    texts = [complete(model, ASKED, d).text for d in decodings]
    assert texts == list("abcdef")
    assert complete(model, [*ASKED, *ASKED], COLD).text == "g"
    assert [complete(model, ASKED, d).text for d in decodings] == texts
    files = [p.relative_to(tmp_path).parts for p in tmp_path.rglob("*.json")]
    assert len(files) == 7
    assert all(name.startswith(a + b) for a, b, name in files)


def test_random_answers_without_a_seed_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="no seed"):
        complete(CachedModel(counted("x"), tmp_path), ASKED, Decoding(temperature=0.7))


@pytest.mark.parametrize("damage", [b"", b"{", b'{"text": 3}', b"\xff"])
def test_an_unreadable_entry_is_a_miss_and_is_mended(tmp_path, damage):
    model = CachedModel(counted("old", "new"), tmp_path)
    complete(model, ASKED, COLD)
    (entry,) = tmp_path.rglob("*.json")
    entry.write_bytes(damage)
    assert complete(model, ASKED, COLD).text == "new"
    assert complete(model, ASKED, COLD).cached


def test_failures_are_not_kept(tmp_path):
    def answer(messages, decoding):
        if not list(tmp_path.glob("ready")):
            raise CallFailure("not yet")
        return "now"

    model = CachedModel(ScriptedModel(answer), tmp_path)
    with pytest.raises(CallFailure):
        complete(model, ASKED, COLD)
    (tmp_path / "ready").touch()
    assert complete(model, ASKED, COLD).text == "now"


def test_writers_of_one_entry_leave_one_whole_file(tmp_path):
    models = [CachedModel(ScriptedModel([f"{n}" * 5000], 0.01), tmp_path) for n in range(20)]

    async def many():
        return await asyncio.gather(*(m(ASKED, COLD) for m in models))

    texts = {c.text for c in asyncio.run(many())}
    assert complete(models[0], ASKED, COLD).text in texts
    assert [p.suffix for p in tmp_path.rglob("*.*")] == [".json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused, match=r"cannot write the cache .*file"):
        complete(CachedModel(counted("x"), tmp_path / "file"), ASKED, COLD)
