"""How much acute risk the client finds in the lines of `tests/chat/crisis.toml`, round by round.

python benchmarks/crisis.py [--round NAME] [--wrong] [--texts FILE ...]

`--texts` counts the referrals that ordinary texts raise: files of JSON lines with a "text" each.
"""

import argparse
import json
import time
import tomllib
from pathlib import Path

from heartloop.chat import care

LINES = Path(__file__).parent.parent / "tests" / "chat" / "crisis.toml"
SCENARIOS = Path(care.__file__).parent.parent / "simusers" / "scenarios"
RISKS = ("explicit", "indirect")


def wrong(kind: str, lines: list[str]) -> list[str]:
    """The lines of a kind that are taken for what they are not."""
    return [line for line in lines if (care.risk(line) is not None) != (kind in RISKS)]


def openers() -> list[str]:
    """What the people of the shipped scenarios say first."""
    rows = [row for file in SCENARIOS.glob("*.jsonl") for row in file.open(encoding="utf-8")]
    said = (json.loads(row) for row in rows)
    return [d.get("opener") or d.get("opening") or d["first"] for d in said]


def main() -> None:
    """Print a table of recall and false alarms, and the time for a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--round", help="this round alone")
    parser.add_argument("--wrong", action="store_true", help="print the lines that go wrong")
    parser.add_argument("--texts", type=Path, nargs="*", default=[], metavar="FILE")
    options = parser.parse_args()
    rounds = tomllib.loads(LINES.read_text("utf-8"))
    print("| round | lines | explicit found | indirect found | false alarms |")
    print("|---|---|---|---|---|")
    spent, count = 0.0, 0
    for name, kinds in rounds.items():
        if options.round not in (None, name):
            continue
        bad = {kind: wrong(kind, lines) for kind, lines in kinds.items()}
        began = time.process_time()  # a second time over: every rule it needs is compiled by now
        for kind, lines in kinds.items():
            wrong(kind, lines)
        spent += time.process_time() - began
        size = sum(map(len, kinds.values()))
        count += size
        found = [f"{len(kinds[k]) - len(bad[k])}/{len(kinds[k])}" for k in RISKS]
        calm = [kind for kind in kinds if kind not in RISKS]
        alarms = f"{sum(len(bad[k]) for k in calm)}/{sum(len(kinds[k]) for k in calm)}"
        print(f"| {name} | {size} | {found[0]} | {found[1]} | {alarms} |")
        if options.wrong:
            print("\n".join(f"  {kind}: {line}" for kind, rows in bad.items() for line in rows))
    print(f"{1000 * spent / max(count, 1):.2f} ms a line")
    first = openers()
    print(f"{sum(care.risk(line) is not None for line in first)} of {len(first)} openers")
    for path in options.texts:
        texts = [json.loads(row)["text"] for row in path.open(encoding="utf-8")]
        alarms = sum(care.risk(text) is not None for text in texts)
        print(f"{alarms} of {len(texts)} texts of {path.name}")


if __name__ == "__main__":
    main()
