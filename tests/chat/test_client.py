import os
import select
import struct
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest

from heartloop import cli
from heartloop.chat.client import chat
from heartloop.chat.entries import Mode
from heartloop.chat.store import Store, data_dir
from heartloop.errors import InvalidInput, UnknownName
from tests.paths import ROOT

pty = pytest.importorskip("pty")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")


class Terminal:
    """The client in a real terminal."""

    def __init__(self, call: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        code = f"from pathlib import Path\nfrom heartloop.chat.client import chat\n{call}"
        env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "en_US"}
        self.began = time.perf_counter()
        self.child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=env
        )
        os.close(slave)
        self.seen = ""

    def read(self) -> None:
        """Take what is there, or wait a little for it."""
        if select.select([self.master], [], [], 0.1)[0]:
            self.seen += os.read(self.master, 65536).decode("utf-8", "replace")

    def until(self, text: str, limit: float = 60) -> float:
        """Read until a text appears; seconds since the start."""
        end = time.perf_counter() + limit
        while text not in self.seen:
            assert time.perf_counter() < end, self.seen[-3000:]
            self.read()
        return time.perf_counter() - self.began

    def write(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Leave with Ctrl+Q, reading on so that the child is not blocked."""
        self.write("\x11")
        while True:
            try:
                if not os.read(self.master, 65536):
                    break
            except OSError:
                break
        os.close(self.master)
        return self.child.wait(timeout=30)


def test_a_conversation_in_a_real_terminal_is_kept(tmp_path):
    terminal = Terminal(f"chat('neutral', folder=Path({str(tmp_path)!r}))")
    terminal.until("your move")
    terminal.write("I am sad\r")
    store = Store(tmp_path)
    end = time.perf_counter() + 30
    while len(kept := store.entries(1)) < 2 or kept[-1].cut:
        assert time.perf_counter() < end, terminal.seen[-3000:]
        terminal.read()
    store.close()
    assert [entry.author for entry in kept] == ["you", "neutral"]
    assert terminal.end() == 0
    again = Terminal(f"chat('neutral', number=1, folder=Path({str(tmp_path)!r}))")
    again.until("I am sad")
    assert again.end() == 0


def test_the_terminal_is_lent_to_the_editor_and_comes_back(tmp_path, monkeypatch):
    editor = Path(__file__).parent / "editor.py"
    monkeypatch.setenv("VISUAL", f"{sys.executable} {editor}")
    terminal = Terminal(f"chat('neutral', folder=Path({str(tmp_path)!r}))")
    terminal.until("your move")
    terminal.write("begun")
    terminal.until("begun")
    terminal.write("\x07")
    terminal.until("ended")
    terminal.write("\r")
    terminal.until("1 you")
    assert terminal.end() == 0
    store = Store(tmp_path)
    assert store.entries(1)[0].text == "begun and ended"
    store.close()


def test_a_client_killed_in_mid_reply_reopens_with_what_was_on_the_screen(tmp_path):
    terminal = Terminal(
        "from heartloop.chat import client\n"
        "from tests.chat.parts import Streamer, cast\n"
        "client.check_policy = str\n"
        "client.Cast = lambda: cast(slow=Streamer('word ' * 5000, 0.01))\n"
        f"chat('slow', folder=Path({str(tmp_path)!r}))"
    )
    terminal.until("your move")
    terminal.write("Tell me everything\r")
    terminal.until("word word word")
    terminal.child.kill()
    terminal.child.wait(timeout=30)
    os.close(terminal.master)
    store = Store(tmp_path)
    said, reply = store.entries(1)
    assert store.warning == "" and said.text == "Tell me everything"
    assert reply.cut and reply.text.startswith("word word word")
    assert store.search("everything")[0].entry == said.id
    store.close()
    again = Terminal(f"chat('neutral', number=1, folder=Path({str(tmp_path)!r}))")
    again.until("Tell me everything")
    again.until("word word")
    assert again.end() == 0


def test_the_command_says_where_sessions_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert cli.main(["chat", "--data-dir"]) == 0
    assert capsys.readouterr().out == f"{data_dir()}\n"
    assert cli.main(["chat", "--folder", str(tmp_path / "mine"), "--data-dir"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mine'}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fields, reason",
    [({"mode": Mode.REPLAY}, "--run"), ({"number": 7}, "no session 7"),
     ({"number": 0}, "no session 0"),
     ({"mode": Mode.HELP, "scenario": "nobody"}, "no scenario called 'nobody'"),
     ({"scenario": "nobody"}, "no scenario called 'nobody'"),
     ({"mode": Mode.WATCH, "preset": "nowhere"}, "nowhere"),
     ({"mode": Mode.HELP, "user": "nobody"}, "nobody"),
     ({"mode": Mode.COMPARE, "against": "neutral"}, "two different policies, got 'neutral' twice"),
     ({"source": "nowhere"}, "cannot read scenarios"),
     ({"policy": "netural"}, "did you mean 'neutral'"),
     ({"mode": Mode.COMPARE, "against": "netural"}, "did you mean 'neutral'")],
)  # fmt: skip
def test_what_does_not_exist_is_named_before_the_screen_opens(tmp_path, fields, reason):
    with pytest.raises((InvalidInput, UnknownName), match=reason):
        chat(**{"policy": "neutral", "folder": tmp_path, **fields})


def test_without_a_terminal_the_client_says_so_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StringIO())
    with pytest.raises(InvalidInput, match="needs a terminal"):
        chat("neutral", folder=tmp_path)
