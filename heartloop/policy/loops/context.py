"""What a policy is shown before an attempt: the task, earlier drafts, a note."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from heartloop.env.play import Prompt
from heartloop.errors import InvalidInput
from heartloop.policy.loops.base import Attempt, attempt_seed
from heartloop.policy.loops.desk import Desk
from heartloop.types import Message, Value

Mode = Literal["none", "last", "answers", "all"]
Placement = Literal["after", "line", "before"]
MODES: tuple[Mode, ...] = ("none", "last", "answers", "all")
JOINTS: dict[Placement, str] = {"after": "{task} {note}", "line": "{task}\n{note}",
                                "before": "{note}\n{task}"}  # fmt: skip


class Note(Value):
    """What a coach has to say before an attempt."""

    text: str
    secret: str
    """The part of it that no reply may repeat."""
    id: str = ""
    emotion: str = ""
    valence: str = ""


@dataclass(frozen=True)
class Context:
    """Builds the private prompt of an attempt.

    Mode "none" shows no draft and joins the note to the task; "last" shows the last draft, "all"
    every draft, "answers" their final answers alone, each time with the note after them.
    """

    mode: Mode = "last"
    placement: Placement = "line"
    """Where a note stands that is joined to the task."""

    def __post_init__(self) -> None:
        """Check the choices."""
        if self.mode not in MODES or self.placement not in JOINTS:
            raise InvalidInput(
                f"expected a mode among {MODES} and a placement among {tuple(JOINTS)}, "
                f"got {self.mode!r} and {self.placement!r}"
            )

    def prompt(self, desk: Desk, note: Note | None, index: int) -> Prompt:
        """The prompt of attempt number `index`."""
        history, seed = desk.prompt.history, attempt_seed(desk.prompt.seed, index)
        drafts = self._drafts(desk)
        if note is None:
            messages = (*history, *drafts)
        elif drafts:
            messages = (*history, *drafts, desk.note(note.text))
        else:
            messages = (*history[:-1], self._joined(history[-1], note))
        return Prompt(messages, seed, desk.prompt.secret)

    def _joined(self, task: Message, note: Note) -> Message:
        head, _, tail = JOINTS[self.placement].partition("{task}")
        text = head.replace("{note}", note.text) + task.content + tail.replace("{note}", note.text)
        return Message(role=task.role, content=text)

    def _drafts(self, desk: Desk) -> list[Message]:
        if self.mode == "none":
            return []
        shown = desk.usable[-1:] if self.mode == "last" else desk.usable
        return [Message(role="assistant", content=self._draft(a)) for a in shown]

    def _draft(self, attempt: Attempt) -> str:
        if self.mode == "answers" and attempt.answer:
            return attempt.answer
        return attempt.reply.text if attempt.reply else ""
