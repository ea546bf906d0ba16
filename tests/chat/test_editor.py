import sys
from pathlib import Path

import pytest

from heartloop.chat.editor import written
from heartloop.errors import InvalidInput

EDITOR = f"{sys.executable} {Path(__file__).parent / 'editor.py'}"


def test_the_text_comes_back_as_the_editor_left_it():
    assert written("begun\n\nçà", {"VISUAL": EDITOR, "EDITOR": "false"}) == "begun\n\nçà and ended"
    assert written("", {"EDITOR": EDITOR}) == " and ended"


@pytest.mark.parametrize(
    "editor, reason",
    [("false", "ended with 1"), ("no-such-editor", "cannot write with"), ('vi "', "cannot write")],
)
def test_an_editor_that_fails_is_named(editor, reason):
    with pytest.raises(InvalidInput, match=reason):
        written("begun", {"EDITOR": editor})


def test_the_file_is_private_and_gone_afterwards(tmp_path):
    look = tmp_path / "look.py"
    look.write_text(
        "import os, sys; from pathlib import Path\n"
        "p = Path(sys.argv[1]); m = oct(os.stat(p.parent).st_mode)[-3:]\n"
        "p.write_text(f'{p}\\n{m}')\n"
    )
    path, mode = written("", {"EDITOR": f"{sys.executable} {look}"}).split("\n")
    assert mode == "700" and not Path(path).exists()
