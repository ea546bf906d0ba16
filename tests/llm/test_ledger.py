"""Checks of the ledger."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from heartloop.llm.base import Completion
from heartloop.llm.ledger import Ledger, Price, Usage


def answered(prompt: int = 10, answer: int = 2) -> Completion:
    return Completion(
        text="x", model="m", prompt_tokens=prompt, completion_tokens=answer, seconds=0.5
    )


def test_threads_lose_no_call():
    ledger = Ledger()
    with ThreadPoolExecutor(16) as pool:
        for n in range(2000):
            pool.submit(ledger.book, f"openai:m{n % 3}@u?key=A", "reply", Usage.of(answered()))
    assert ledger.total() == Usage(2000, 0, 0, 0, 20_000, 4_000, 1000.0)
    assert list(ledger.entries()) == [(f"openai:m{n}@u", "reply") for n in range(3)]


def test_cost_is_by_the_million_tokens_in_and_out():
    usage = Usage.of(answered(500_000, 250_000), price=Price(prompt=3.0, completion=8.0))
    assert usage.cost == pytest.approx(1.5 + 2.0)


def test_record_is_json_and_rows_add_up():
    ledger = Ledger()
    ledger.book("hf:a", "judge", Usage.of(answered(), retries=3))
    ledger.book("hf:a", "reply", Usage(calls=1, failures=1))
    ledger.book("hf:a", "reply", Usage(calls=1, cached=1))
    record = json.loads(json.dumps(ledger.record()))
    assert record["total"]["calls"] == sum(row["calls"] for row in record["models"]) == 3
    assert [row["purpose"] for row in record["models"]] == ["judge", "reply"]
    heads, first, second, last = ledger.rows()
    assert heads[:4] == ("model", "purpose", "calls", "failures")
    assert first[2:6] == ("1", "0", "0", "3")
    assert second[2:5] == ("2", "1", "1")
    assert last[0] == "total" and len({len(heads), len(first), len(last)}) == 1
