"""Collect which function words stand next to each other in English people write to each other.

    python benchmarks/build_pairs.py

Source: the project's own authored texts (grammar, situations, personas, acts of the scripted
policies) and the contrast pairs that are not set aside. The reader takes a reply whose function
words mostly stand in orders never seen here for word salad.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contrast import pairs

import heartloop
from heartloop.simusers.phrases import function_pairs

PACKAGE = Path(heartloop.__file__).parent
TABLES = ("simusers/grammar/en.toml", "policy/acts.toml", "policy/scripted.toml")
OUT = PACKAGE / "simusers/lexicon/en.pairs.txt"


def strings(value: Any) -> Iterator[str]:
    """All texts inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def texts() -> Iterator[str]:
    for table in TABLES:
        yield from strings(tomllib.loads((PACKAGE / table).read_text("utf-8")))
    for path in sorted((PACKAGE / "simusers/scenarios/parts").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            yield from strings(json.loads(line))
    for pair in pairs():
        if not pair.set_aside:
            yield from (pair.better, pair.worse, *(m.content for m in pair.history))
            yield from strings(pair.scenario.situation.model_dump(mode="json"))


def main() -> None:
    found = {pair for text in texts() for pair in function_pairs(text)}
    OUT.write_text("".join(f"{a} {b}\n" for a, b in sorted(found)), encoding="utf-8")
    print(f"{len(found)} pairs in {OUT.relative_to(PACKAGE.parent)}")


if __name__ == "__main__":
    main()
