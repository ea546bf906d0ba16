"""A text written in the person's own editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from heartloop.errors import InvalidInput

_USUAL = "vi"


def written(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Have a text changed in `$VISUAL`, or else `$EDITOR`; blocks until the editor is left.

    The file it lies in meanwhile can be read by its owner alone and is removed afterwards.

    Raises:
        InvalidInput: the editor cannot be started, failed, or left something that is no text.
    """
    editor = environment.get("VISUAL") or environment.get("EDITOR") or _USUAL
    with tempfile.TemporaryDirectory(prefix="heartloop-") as folder:
        path = Path(folder) / "message.md"
        path.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
            if code:
                raise InvalidInput(f"the editor {editor!r} ended with {code}: nothing was changed")
            return path.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, ValueError) as error:
            raise InvalidInput(f"cannot write with the editor {editor!r}: {error}") from error
