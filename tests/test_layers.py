"""Imports go leftwards only, also inside functions, and heavy packages have one home each."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "heartloop"
BASE = {"errors", "emotion", "types", "config", "llm", "data"}
MAY = {
    "simusers": BASE,
    "rewards": BASE,
    "env": BASE | {"simusers", "rewards"},
    "policy": BASE | {"simusers", "rewards", "env"},
    "chat": BASE | {"simusers", "rewards", "env", "policy"},
    "cli": BASE | {"simusers", "rewards", "env", "policy", "chat"},
    "__init__": BASE | {"env"},
}
HOMES = {
    "gymnasium": ("env/", "__init__.py"),
    "aiohttp": ("llm/", "policy/serve/"),
    "openai": ("llm/",),
    "vllm": ("llm/",),
    "torch": ("policy/", "llm/"),
    "transformers": ("policy/", "llm/"),
    "trl": ("policy/train/",),
    "ray": ("policy/parallel.py", "policy/submit.py", "policy/workers.py"),
    "datasets": ("policy/data.py", "policy/train/"),
    "matplotlib": ("policy/evals/",),
    "jinja2": ("policy/evals/",),
    "textual": ("chat/",),
    "typer": ("cli/",),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "heartloop":
                yield from (f"heartloop.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_leftwards_only(path):
    here = room(path)
    allowed = MAY.get(here, BASE) | {here}
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "heartloop" and len(parts) > 1 and (PACKAGE / parts[1]).exists():
            assert parts[1] in allowed, f"{here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_heavy_dependency_has_one_home(path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        homes = HOMES.get(name.split(".")[0])
        if homes:
            assert place.startswith(homes), f"{place} imports {name}; its home is {homes}"


def test_there_is_no_ring_of_imports():
    graph = {
        ".".join(("heartloop", *p.relative_to(PACKAGE).with_suffix("").parts)): {
            n for n in imports(p) if n.startswith("heartloop")
        }
        for p in FILES
    }
    graph = {k.removesuffix(".__init__"): v for k, v in graph.items()}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        for other in graph.get(name, ()):
            if other in graph and other != name:
                visit(other, (*path, name))

    for name in graph:
        visit(name, ())


def test_the_world_imports_no_torch_and_no_ray():
    code = (
        "import sys, heartloop.env, heartloop.simusers.embedded, heartloop.rewards.base;"
        "sys.exit(bool({'torch', 'transformers', 'ray', 'trl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
