import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from heartloop.chat.entries import Entry, Mode, Setup
from heartloop.chat.session import Due, Session
from heartloop.chat.store import FILE, MIGRATIONS, Store, data_dir
from heartloop.errors import InvalidInput, OutputRefused
from tests.chat.parts import cast, go_on, session, talk, texts
from tests.fakes import ToyPolicy
from tests.paths import ROOT

SETUP = Setup(mode=Mode.TALK, policies=("toy",))


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "data")
    yield found
    found.close()


def entry(number, text, parent=None):
    return Entry(id=number, parent=parent, role="user", author="you", text=text)


def test_a_session_is_reopened_where_it_was_left(store):
    one = talk(session("talk", "toy", store=store), "I am sad", "very sad")
    one.branch(2)
    again = Session.reopen(store, one.id, cast(), "us")
    assert again.path == one.path and again.setup == one.setup
    assert again.head != max(e.id for e in store.entries(one.id))


def test_a_simulated_dialogue_goes_on_after_reopening(store):
    one = talk(go_on(session("help")), "Tell me more about it", "And then?")
    kept = talk(go_on(session("help", store=store)), "Tell me more about it")
    again = talk(Session.reopen(store, kept.id, cast()), "And then?")
    assert texts(again) == texts(one)
    assert again.episode() == one.episode()


def test_an_unanswered_reply_is_reacted_to_after_reopening(store):
    one = go_on(session("help", store=store))
    one.say("Tell me more")
    again = Session.reopen(store, one.id, cast())
    assert again.due is Due.USER and again.react().reaction


def test_a_session_takes_its_name_from_its_first_message_until_it_is_given_one(store):
    one = talk(session("talk", "toy", store=store), "My  cat is ill today")
    assert [row.name for row in store.sessions()] == ["My cat is ill today"]
    one.rename("the cat")
    assert store.session(one.id).name == "the cat"
    with pytest.raises(InvalidInput, match="must not be empty"):
        one.rename("  ")


def test_an_empty_session_leaves_no_trace(store):
    session("talk", "toy", store=store)
    assert store.sessions() == []


def test_the_last_used_session_comes_first(store):
    one = talk(session("talk", "toy", store=store), "one")
    two = talk(session("talk", "toy", store=store), "two")
    talk(one, "again")
    assert [row.id for row in store.sessions()] == [one.id, two.id]


@pytest.mark.parametrize(
    "words, found",
    [
        ("exam", 1),
        ("EXAM failed", 1),
        ("exam cat", 0),
        ("考试", 1),
        ("%", 0),
        ('"ex', 0),
        ("  ", 0),
    ],
)
def test_search_finds_every_word_in_any_case_and_script(store, words, found):
    number = store.begin("s", SETUP)
    store.put(number, entry(1, "I failed my exam, 我考试没考好"))
    store.put(number, entry(2, "Nothing else", 1))
    assert len(store.search(words)) == found


def test_sessions_are_found_by_every_word_of_their_name_in_any_case(store):
    for name in ("The long night", "night shift", "\u957f\u591c"):
        one = talk(session("talk", "toy", store=store), "Hi")
        one.rename(name)
    assert [row.name for row in store.sessions("NIGHT")] == ["night shift", "The long night"]
    assert [row.name for row in store.sessions("night  long")] == ["The long night"]
    assert [row.name for row in store.sessions("\u957f")] == ["\u957f\u591c"]
    assert store.sessions("nowhere") == [] and len(store.sessions(" ")) == 3


def test_two_clients_at_one_session_overwrite_nothing_of_each_other(store):
    one = talk(session("talk", "toy", store=store), "Hi")
    other = Session.reopen(store, one.id, cast(toy=ToyPolicy()), "us")
    talk(one, "the first went on")
    with pytest.raises(InvalidInput, match="session 1 was gone on with elsewhere: /open 1"):
        other.say("so did the second")
    assert len(other.path) == 2
    assert store.entries(one.id)[2].text == "the first went on"


def test_a_session_that_cannot_be_read_stays_in_the_list_and_is_named(store):
    number = store.begin("of tomorrow", SETUP)
    with store._writing() as base:
        base.execute("""UPDATE sessions SET setup = '{"mode": "talk", "moon": 1}'""")
    assert [(row.name, row.mode) for row in store.sessions()] == [("of tomorrow", "talk")]
    with pytest.raises(InvalidInput, match="session 1 cannot be read"):
        store.session(number)


def test_a_file_that_breaks_while_it_is_open_is_an_error_with_its_name(store):
    with store._writing() as base:
        base.execute("DROP TABLE found")
    with pytest.raises(InvalidInput, match=r"cannot read .*chat\.db"):
        store.search("exam")
    with pytest.raises(OutputRefused, match=r"cannot write .*chat\.db"):
        store.put(store.begin("s", SETUP), entry(1, "Hi"))


def test_a_growing_message_is_found_when_it_has_ended(store):
    number = store.begin("s", SETUP)
    store.put(number, entry(1, "half of a sent"), growing=True)
    assert store.search("half") == []
    store.put(number, entry(1, "half of a sentence"))
    assert [hit.text for hit in store.search("half")] == ["half of a sentence"]


def test_a_deleted_session_is_gone_from_lists_and_search(store):
    number = store.begin("s", SETUP)
    store.put(number, entry(1, "remember me"))
    store.delete(number)
    assert store.sessions() == [] and store.search("remember") == [] and not store.entries(number)
    with pytest.raises(InvalidInput, match="no session 1: known are none"):
        store.session(number)


def test_prompts_are_given_once_and_in_order(store):
    number = store.begin("s", SETUP)
    for i, text in enumerate(("a", "b", "a"), 1):
        store.put(number, entry(i, text))
    assert store.prompts("you") == ["b", "a"]


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_folder_and_files_are_readable_by_their_owner_only(tmp_path):
    (tmp_path / "data").mkdir(mode=0o755)
    with_data = Store(tmp_path / "data")
    with_data.begin("s", SETUP)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "data").iterdir()}
    assert FILE in modes and set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    with_data.close()


def test_a_file_of_an_earlier_schema_is_brought_up_to_date(tmp_path):
    base = sqlite3.connect(tmp_path / FILE)
    base.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1;")
    base.execute("INSERT INTO sessions VALUES (1, 'old', ?, 1, 0, 0)", (SETUP.model_dump_json(),))
    body = entry(1, "an old message").model_dump_json()
    base.execute(
        "INSERT INTO entries VALUES (1, 1, 1, 'user', 'you', 'an old message', ?)", (body,)
    )
    base.commit()
    base.close()
    store = Store(tmp_path)
    assert [hit.name for hit in store.search("old")] == ["old"]
    assert store._base.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    store.close()


def test_a_file_of_a_later_schema_is_refused_and_left_alone(tmp_path):
    Store(tmp_path).close()
    base = sqlite3.connect(tmp_path / FILE)
    base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(InvalidInput, match="schema version 99"):
        Store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("damage", ["not a database", "middle"])
def test_a_corrupt_file_is_set_aside_with_a_clear_message(tmp_path, damage):
    store = Store(tmp_path)
    talk(session("talk", "toy", store=store), *["I am sad " * 50] * 20)
    store._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    path = tmp_path / FILE
    whole = path.read_bytes()
    broken = b"not a database" * 99 if damage != "middle" else (
        whole[:8192] + os.urandom(len(whole) - 16384) + whole[-8192:]
    )  # fmt: skip
    path.write_bytes(broken)
    fresh = Store(tmp_path)
    assert f"kept as {tmp_path / FILE}.broken-1" in fresh.warning and "fresh start" in fresh.warning
    assert fresh.sessions() == []
    assert (tmp_path / f"{FILE}.broken-1").read_bytes() == broken
    fresh.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="cannot write"):
        Store(tmp_path / "file" / "data")


@pytest.mark.parametrize(
    "platform, environment, expected",
    [
        ("linux", {"XDG_DATA_HOME": "/x"}, Path("/x/heartloop")),
        ("linux", {}, Path.home() / ".local" / "share" / "heartloop"),
        ("darwin", {}, Path.home() / "Library" / "Application Support" / "heartloop"),
        ("win32", {"LOCALAPPDATA": "/l"}, Path("/l/heartloop")),
    ],
)
def test_the_data_directory_follows_the_custom_of_the_platform(platform, environment, expected):
    assert data_dir(environment, platform) == expected


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX")
def test_a_session_killed_in_mid_reply_reopens_with_all_that_was_shown(tmp_path):
    script = """
        import sys
        from pathlib import Path
        from heartloop.chat.store import Store
        from tests.chat.parts import Streamer, session
        text = " ".join(f"word{n}" for n in range(1000))
        store, slow = Store(Path(sys.argv[1])), Streamer(text, 0.01)
        one = session("talk", "s", store=store, players={"s": slow})
        one.say("Tell me everything")
        for entry in one.answer():
            print(len(entry.text), flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    shown = [int(child.stdout.readline()) for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    shown += [int(line) for line in child.communicate()[0].split("\n") if line.strip()]
    store = Store(tmp_path)
    assert store.warning == ""
    again = Session.reopen(store, 1, cast(), "us")
    said, reply = again.path
    assert said.text == "Tell me everything"
    assert len(reply.text) >= shown[-1] and reply.text.startswith("word0 word1 ") and reply.cut
    assert [hit.entry for hit in store.search("word10")] == [reply.id]
    assert again.due is Due.PERSON
    store.close()
