"""Sessions as files: Markdown to read, JSON lines to score and to train on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from heartloop.chat.entries import Entry
from heartloop.chat.session import Session
from heartloop.env.record import EpisodeWriter
from heartloop.errors import InvalidInput, OutputRefused, unknown
from heartloop.policy.evals.show import plain

_CODE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def export(session: Session, form: str, path: Path) -> Path:
    """Write a session to a new file that only its owner can read.

    Args:
        session: What to write.
        form: "md", or "jsonl": an episode line where a simulated user takes part (verified and
            rescored like any other), else a line of `messages`, the common form of chat data,
            which `warmup.episodes` takes as well.
        path: The new file.

    Raises:
        UnknownName: no such form.
        InvalidInput: the session is empty.
        OutputRefused: the file exists or cannot be written.
    """
    if form not in FORMS:
        raise unknown("form of an export", form, FORMS)
    if not session.path:
        raise InvalidInput("there is nothing to export yet: the session is empty")
    episode = session.episode() if form == "jsonl" else None
    if episode is None:
        _write(path, FORMS[form](session))
    else:
        with EpisodeWriter(path) as writer:
            path.chmod(0o600)
            writer.write(episode)
    return path


def markdown(session: Session) -> str:
    """The shown messages as Markdown, each with its emotion."""
    kind = "estimated" if session.estimated else "emotion"
    lines = [f"# {plain(session.name)}", "", f"Mode: {session.mode}", ""]
    for entry in session.path:
        level = "" if entry.level is None else f" ({kind} {entry.level:.1f})"
        cut = " (broken off)" if entry.cut else ""
        lines += [f"## {plain(entry.author)}{level}{cut}", "", plain(entry.text), ""]
    return "\n".join(lines)


def messages(session: Session) -> str:
    """The shown dialogue as a line of chat data; a reply that was broken off weighs nothing."""
    said = [_message(entry) for entry in session.path if entry.role != "notice"]
    return json.dumps({"messages": said}, ensure_ascii=False) + "\n"


def _message(entry: Entry) -> dict[str, Any]:
    """A message, with its think block as it was generated."""
    content = entry.raw if entry.think and entry.raw else entry.text
    weight = {"weight": 0} if entry.cut else {}
    return {"role": entry.message.role, "content": content, **weight}


def quote(session: Session, what: str = "") -> str:
    """The text of message `what` (a number from 1), the last one, or the last "code" block.

    Raises:
        InvalidInput: there is none.
    """
    texts = [entry.text for entry in session.path]
    if what == "code":
        texts = [found for text in texts for found in _CODE.findall(text)]
    number = int(what) if what.isdecimal() else len(texts)
    if not 1 <= number <= len(texts) or what not in ("", "code", str(number)):
        raise InvalidInput(f"nothing to copy under {what!r}: there are {len(texts)}")
    return texts[number - 1]


FORMS = {"md": markdown, "jsonl": messages}


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            path.chmod(0o600)
            file.write(text)
    except FileExistsError as error:
        raise OutputRefused(f"{path} exists already: choose a new name") from error
    except OSError as error:
        raise OutputRefused(f"cannot write {path}: {error.strerror}") from error
