"""The command line: each command checks its input, calls one function and prints what came."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

# Commands stand in the help text in the order of these modules.
from heartloop.cli import dialogue, learning, measure, people
from heartloop.cli.options import app, complain

__all__ = ["dialogue", "learning", "main", "measure", "people"]

_ClickError: type[Exception] = typer.BadParameter.__mro__[2]
"""Root of the errors of the option parser, which typer does not export."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code is 2 for wrong input, 1 for a failure, 130 when stopped."""
    from heartloop.errors import HeartloopError, InvalidInput

    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if argv is None:
        sys.path.insert(0, "")  # rewards that are functions of the user's own folder
    try:
        result = typer.main.get_command(app).main(words, "heartloop", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except InvalidInput as error:
        return complain(error, 2)
    except HeartloopError as error:
        return complain(error, 1)
    except _ClickError as error:
        return complain(error.format_message(), 2)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return complain("stopped", 130)
    except BrokenPipeError:
        # The reader has left; without this the interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
