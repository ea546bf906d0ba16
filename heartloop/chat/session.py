"""A chat session: its state and its rules, without a screen.

Messages form a tree. The path from its root to the head is what is shown; regenerating, editing
and branching begin a new branch and lose nothing. A message is on the disk before it is given out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from random import Random
from typing import Any

from heartloop.chat import care
from heartloop.chat.cast import Cast, Spoken, speak
from heartloop.chat.entries import NAME, PERSON, Entry, Mode, Role, Setup, check, title
from heartloop.chat.feeling import estimate
from heartloop.chat.store import Store
from heartloop.chat.tree import Tree, laid_out
from heartloop.env.play import Dialogue, Policy, Prompt, Snapshot, prompt_seed, resume
from heartloop.errors import EpisodeFailure, InvalidInput
from heartloop.rewards import reward
from heartloop.types import Episode, Message, Reaction, StopReason

_HOUSE = "heartloop"
"""Author of notices."""


class Due(StrEnum):
    """Whose move it is."""

    PERSON = "person"
    POLICY = "policy"
    USER = "user"
    NOBODY = "nobody"


class Session:
    """A conversation, in any mode."""

    def __init__(
        self, setup: Setup, cast: Cast, store: Store | None = None, region: str = ""
    ) -> None:
        """Begin a session.

        Args:
            setup: Who plays whom.
            cast: Makes policies and users.
            store: Where it is kept; None keeps it nowhere, as for a replay.
            region: Whose helplines to name; by default that of the system's language.

        Raises:
            InvalidInput: the setup lacks what its mode needs.
        """
        check(setup)
        self.setup, self.cast, self.store = setup, cast, store
        self.region = region or care.region()
        self.id = 0
        self.name = title(setup)
        self.why_shown = setup.mode is not Mode.HELP
        self._stop = threading.Event()
        self._tree = Tree()
        self.head: int | None = None
        if setup.episode:
            self._tree = Tree(laid_out(setup.episode))
            self.head = self._tree.next - 1

    @classmethod
    def reopen(cls, store: Store, number: int, cast: Cast, region: str = "") -> Session:
        """Go on with a stored session where it was left."""
        found = store.session(number)
        session = cls(found.setup, cast, store, region)
        session.id, session.name = number, found.name
        session._tree = Tree(store.entries(number))
        session.head = found.head if found.head in session._tree else None
        return session

    @property
    def mode(self) -> Mode:
        """Who plays whom."""
        return self.setup.mode

    @property
    def path(self) -> list[Entry]:
        """The messages shown, oldest first."""
        return self._tree.path(self.head)

    @property
    def last(self) -> Entry | None:
        """The message that was said last, notices aside."""
        return next((e for e in reversed(self.path) if e.role != "notice"), None)

    @property
    def due(self) -> Due:
        """Whose move it is."""
        last = self.last
        if self.mode is Mode.REPLAY or (last and last.stop):
            return Due.NOBODY
        if self.mode in (Mode.TALK, Mode.COMPARE):
            answered = last is None or last.role == "assistant" or self.path[-1].referral
            return Due.PERSON if answered else Due.POLICY
        if last is None or (last.role == "assistant" and not last.cut):
            return Due.USER
        return Due.PERSON if self.mode is Mode.HELP else Due.POLICY

    @property
    def emotions(self) -> list[float]:
        """The emotion after each message that carries one, 0 to 100."""
        return [entry.level for entry in self.path if entry.level is not None]

    def change(self, entry: Entry) -> float | None:
        """How far the emotion moved with a message; None where none stands before it."""
        before = (e.level for e in reversed(self._tree.path(entry.parent)))
        level = next((level for level in before if level is not None), None)
        if entry.level is None or level is None:
            return None
        return entry.reaction.change if entry.reaction else entry.level - level

    @property
    def ended(self) -> StopReason | None:
        """Why the simulated dialogue ended, if it did."""
        if self.setup.episode:
            return self.setup.episode.stop
        return self.last.stop if self.last else None

    @property
    def estimated(self) -> bool:
        """Whether the emotions are estimates about a person, not scores of a simulated one."""
        return self.mode in (Mode.TALK, Mode.COMPARE)

    def entry(self, number: int) -> Entry:
        """The message of that id, as it stands now."""
        return self._tree[number]

    def siblings(self, entry: Entry) -> list[Entry]:
        """Every version of a message, itself included."""
        return self._tree.versions(entry)

    def say(self, text: str) -> Entry:
        """Take what the person wrote; a notice follows where care asks for one.

        Raises:
            InvalidInput: nothing was written, or it is not the person's move.
        """
        if not text.strip():
            raise InvalidInput("nothing to send: write something first")
        if self.due is not Due.PERSON:
            raise InvalidInput(f"it is not your move: {_WAIT[self.due]}")
        if self.mode is Mode.HELP:
            said = self._add("assistant", PERSON, text=text)
        else:
            before = next((e.feeling for e in reversed(self.path) if e.feeling), None)
            said = self._add("user", PERSON, text=text, feeling=estimate(text, before))
        self._care(text)
        return said

    def _care(self, text: str) -> None:
        """Say what it is when asked, and whom to call where there is risk; no model is asked."""
        if care.asks_if_ai(text):
            self.note(care.ai_notice(text))
        for notice in care.referrals(text, self.region):
            self._add("notice", _HOUSE, text=notice, referral=True)

    def note(self, text: str) -> Entry:
        """Add a notice of the client itself."""
        return self._add("notice", _HOUSE, text=text)

    def stop(self) -> None:
        """Break off the reply that is being spoken; what came of it stays."""
        self._stop.set()

    def answer(self, began: Callable[[Policy], None] = lambda policy: None) -> Iterator[Entry]:
        """Let each policy whose move it is reply.

        Args:
            began: Told of each policy when it is asked.

        Yields:
            Every state of each growing reply.

        Raises:
            InvalidInput: it is no policy's move.
            HeartloopError: the policy cannot be used.
        """
        if self.due is not Due.POLICY:
            raise InvalidInput(f"no policy is to reply now: {_WAIT[self.due]}")
        self._stop.clear()
        asked = self._asked()
        first = None
        for spec in self.setup.policies:
            began(self.cast.policy(spec))
            for entry in self._reply(spec, asked):
                first = entry.id if first is None else first
                yield entry
            if self._stop.is_set():
                break
        if first is not None:
            self._move(self._tree.leaf(first))

    def _asked(self) -> Entry:
        """The message that is to be answered."""
        return next(e for e in reversed(self.path) if e.role == "user")

    def _noticed(self, asked: Entry) -> int:
        """The last notice right after a message, so that it stays above the reply; or itself."""
        at = asked.id
        for entry in self.path:
            if entry.role == "notice" and entry.parent == at:
                at = entry.id
        return at

    def _reply(self, spec: str, asked: Entry) -> Iterator[Entry]:
        policy = self.cast.policy(spec)
        parent = self._noticed(asked)
        prompt = self._prompt(policy, asked)
        entry: Entry | None = None
        try:
            for spoken in speak(policy, prompt, self._stop):
                entry = self._grow(entry, parent, policy.name, spoken)
                yield entry
        except EpisodeFailure as failure:
            self._move(entry.id if entry else parent)
            yield self.note(f"{policy.name} gave no{' whole' * bool(entry)} reply: {failure}")
            return
        if entry and not self._stop.is_set():
            entry = self._put(entry.model_copy(update={"cut": False}))
            yield entry

    def _grow(self, entry: Entry | None, parent: int, author: str, spoken: Spoken) -> Entry:
        fields = {**dict(spoken.reply), "cut": True, "drafts": spoken.drafts}
        if entry is None:
            self._move(parent)
            return self._add("assistant", author, growing=True, **fields)
        return self._put(entry.model_copy(update=fields), growing=True)

    def _prompt(self, policy: Policy, asked: Entry) -> Prompt:
        """What a policy may see; another try of the same reply has another seed."""
        history = _history(self._tree.path(asked.id))
        tries = sum(
            e.role == "assistant" and e.author == policy.name and self._tree.asked(e) == asked.id
            for e in self._tree
        )
        state = self._state(asked.id)
        if state is None:
            key = f"{self.setup.seed}:{len(history)}:{tries}:{history[-1].content}"
            return Prompt(history, Random(key).getrandbits(63))
        dialogue = self._dialogue(state)
        seed = prompt_seed(replace(dialogue.task, sample=tries), len(dialogue.turns))
        return replace(dialogue.prompt(policy), seed=seed)

    def react(self) -> Entry:
        """Let the simulated user open the dialogue, or react to the last reply.

        Returns:
            Its message; the reply itself where the preset leaves the last one unscored.

        Raises:
            InvalidInput: it is not the simulated user's move.
        """
        if self.due is not Due.USER:
            raise InvalidInput(f"the simulated user has nothing to do: {_WAIT[self.due]}")
        last = self.last
        if last is None:
            dialogue = self._opened()
            return self._hear(dialogue, dialogue.opening)
        state = self._state(last.id)
        if state is None:
            raise InvalidInput(f"session {self.id} has lost its simulated dialogue: begin anew")
        dialogue = self._dialogue(state)
        turn = dialogue.step(last.reply)
        if turn.reaction:
            return self._hear(dialogue, turn.reaction)
        ended = self._put(last.model_copy(update={"state": dialogue.snapshot()}))
        if dialogue.error:
            self.note(f"The dialogue could not be scored: {dialogue.error}")
        return ended

    def _opened(self) -> Dialogue:
        user = self.cast.user(self.setup.user, self.setup.preset)
        scenario = self.setup.scenario
        assert scenario is not None  # check saw to it
        return Dialogue(user, scenario, self.setup.seed)

    def _hear(self, dialogue: Dialogue, reaction: Reaction) -> Entry:
        name = dialogue.task.scenario.persona.name
        said = self._add(
            "user", name, text=reaction.text, reaction=reaction, state=dialogue.snapshot()
        )
        if dialogue.error:
            self.note(f"The dialogue could not begin: {dialogue.error}")
        return said

    def _state(self, at: int) -> Snapshot | None:
        return next((e.state for e in reversed(self._tree.path(at)) if e.state), None)

    def _dialogue(self, state: Snapshot) -> Dialogue:
        user = self.cast.user(self.setup.user, self.setup.preset)
        return resume(lambda: user, state)

    def episode(self) -> Episode | None:
        """The simulated dialogue up to the head, with its score; None where there is none."""
        if self.setup.episode:
            return self.setup.episode
        state = self._state(self.head) if self.head is not None else None
        if state is None:
            return None
        spoken = [e.author for e in self.path if e.role == "assistant"]
        return self._dialogue(state).episode(spoken[-1] if spoken else PERSON, reward("final"))

    def regenerate(self) -> None:
        """Take back the last reply of a policy, so that it is due again.

        Raises:
            InvalidInput: no policy has replied.
        """
        if self.due is Due.POLICY:
            return
        if self.mode in (Mode.HELP, Mode.REPLAY):
            raise InvalidInput(f"in {self.mode} there is no reply of a policy to draw again")
        self._move(self._latest("assistant", "no policy has replied yet").parent)

    def edit(self) -> str:
        """Take back the person's last message, to be sent in another form; its text.

        Raises:
            InvalidInput: the person has written nothing.
        """
        mine = [e for e in self.path if e.author == PERSON]
        if not mine:
            raise InvalidInput("you have written nothing yet: there is nothing to edit")
        self._move(mine[-1].parent)
        return mine[-1].text

    def branch(self, number: int) -> None:
        """Go on from message `number` (from 1) of the path; what came after it stays stored.

        Raises:
            InvalidInput: there is no such message.
        """
        self._move(self._numbered(number).id)

    def felt(self, number: int) -> Entry:
        """Message `number` (from 1) of the path, which carries an emotion.

        Raises:
            InvalidInput: there is no such message, or it carries none.
        """
        entry = self._numbered(number)
        if entry.level is None:
            raise InvalidInput(f"message {number} carries no emotion: it is the other one's")
        return entry

    def _numbered(self, number: int) -> Entry:
        path = self.path
        if not 1 <= number <= len(path):
            raise InvalidInput(f"expected a message from 1 to {len(path)}, got {number!r}")
        return path[number - 1]

    def other(self) -> Entry:
        """Show the next version of the last message that has several, with what followed it.

        Who went back to an earlier message, or took one back, is shown what followed it.

        Returns:
            The version, or the last of what followed.

        Raises:
            InvalidInput: no message has another version.
        """
        end = self._tree.leaf(self.head)
        if end is not None and end != self.head:
            self._move(end)
            return self._tree[end]
        for entry in reversed(self.path):
            versions = self.siblings(entry)
            if len(versions) > 1:
                chosen = versions[(versions.index(entry) + 1) % len(versions)]
                self._move(self._tree.leaf(chosen.id))
                return chosen
        raise InvalidInput("no message here has another version: regenerate or edit one first")

    def reveal(self, number: int) -> None:
        """Bring the message of that id onto the path, with what followed it."""
        if number in self._tree and self._tree[number] not in self.path:
            self._move(self._tree.leaf(number))

    def rename(self, name: str) -> None:
        """Give the session another name."""
        if not name.strip():
            raise InvalidInput("a session's name must not be empty")
        self.name = name.strip()[:NAME]
        if self.store and self.id:
            self.store.rename(self.id, self.name)

    def _latest(self, role: str, otherwise: str) -> Entry:
        found = next((e for e in reversed(self.path) if e.role == role), None)
        if found is None:
            raise InvalidInput(otherwise)
        return found

    def _add(self, role: Role, author: str, *, growing: bool = False, **fields: Any) -> Entry:
        number = self._tree.next
        entry = Entry(id=number, parent=self.head, role=role, author=author, **fields)
        return self._put(entry, growing=growing)

    def _put(self, entry: Entry, *, growing: bool = False) -> Entry:
        if self.store:
            if not self.id:
                self.id = self.store.begin(self.name, self.setup)
            if not len(self._tree) and self.estimated:
                self.rename(" ".join(entry.text.split())[:NAME] or self.name)
            self.store.put(self.id, entry, growing=growing, new=entry.id not in self._tree)
        self._tree.put(entry)
        self.head = entry.id
        return entry

    def _move(self, head: int | None) -> None:
        self.head = head
        if self.store and self.id:
            self.store.move(self.id, head)


_WAIT = {
    Due.PERSON: "it is yours",
    Due.POLICY: "the policy is to reply",
    Due.USER: "the simulated user is to react",
    Due.NOBODY: "the dialogue has ended; begin a new one",
}


def _history(path: Sequence[Entry]) -> tuple[Message, ...]:
    return tuple(entry.message for entry in path if entry.role != "notice")
