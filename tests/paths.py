"""Where optional real data lies; tests that need it skip with a reason where it does not."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


def data(name: str) -> Path:
    """The path of a data file, or a skip."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} beside the checkout")
    return path
