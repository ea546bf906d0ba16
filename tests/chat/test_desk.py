import re
from dataclasses import replace

import pytest

from heartloop.chat.desk import Desk, Settings, episodes, settings
from heartloop.chat.entries import Mode, Setup
from heartloop.chat.store import Store
from heartloop.env.record import EpisodeWriter
from heartloop.errors import ConfigError, InvalidInput, UnknownName
from heartloop.simusers.scenario import pack
from tests.chat.parts import cast, talk
from tests.fakes import ToyPolicy, toy_episode, toy_scenario

BASE = Setup(mode=Mode.TALK, policies=("toy", "neutral"), user="toy", scenario=toy_scenario())


@pytest.fixture
def desk(tmp_path):
    store = Store(tmp_path / "data")
    people = (toy_scenario("alpha"), toy_scenario("beta"))
    played = (toy_episode("One."), toy_episode("Two."))
    yield Desk(cast(toy=ToyPolicy()), store, BASE, people, played, Settings(region="gb"))
    store.close()


@pytest.mark.parametrize("mode, policies", [("talk", 1), ("compare", 2), ("watch", 1), ("help", 0)])
def test_a_new_session_takes_what_its_mode_needs(desk, mode, policies):
    found = desk.begin(Mode(mode)).setup
    assert found.mode == mode and len(found.policies) == policies
    assert (found.scenario is None) == (mode in ("talk", "compare"))


def test_a_scenario_is_found_by_how_its_id_begins(desk):
    assert desk.begin(Mode.HELP, "be").setup.scenario.id == "beta"
    with pytest.raises(UnknownName, match="known: alpha, beta"):
        desk.begin(Mode.HELP, "gamma")


def test_episodes_are_replayed_by_number_and_not_stored(desk):
    assert desk.replay(2).path[1].text == "Two." and desk.store.sessions() == []
    assert desk.begin(Mode.REPLAY).path[1].text == "One."
    with pytest.raises(InvalidInput, match="expected an episode from 1 to 2, got 3"):
        desk.replay(3)


def test_a_stored_session_is_opened_with_the_region_of_the_settings(desk):
    one = talk(desk.begin(Mode.TALK), "Hi")
    again = desk.open(one.id)
    assert again.path == one.path and again.region == "gb"


def test_a_run_directory_gives_its_episodes(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    for name in ("eval-before.jsonl", "episodes.jsonl"):
        with EpisodeWriter(tmp_path / name) as writer:
            writer.write(toy_episode(name))
    assert [e.turns[0].reply.text for e in episodes(tmp_path)] == [
        "episodes.jsonl", "eval-before.jsonl",
    ]  # fmt: skip
    assert len(episodes(tmp_path / "episodes.jsonl")) == 1


def test_a_directory_without_episodes_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="holds no episode"):
        episodes(tmp_path)


def test_settings_are_read_from_the_data_directory(tmp_path):
    assert settings(tmp_path) == Settings()
    text = 'theme = "nord"\nregion = "ie"\n[keys]\nwhy = "ctrl+w"\n'
    (tmp_path / "settings.toml").write_text(text)
    assert settings(tmp_path) == Settings(theme="nord", region="ie", keys={"why": "ctrl+w"})


@pytest.mark.parametrize(
    "text, reason",
    [("them = 1", "them"), ("[keys]\nwy = 'x'", "did you mean 'why'"), ("= 1", "cannot read"),
     ("region = 'atlantis'", "atlantis"), ("[keys]\nwhy = 'f3'", "'f3' of 'why' belongs")],
)  # fmt: skip
def test_wrong_settings_are_named(tmp_path, text, reason):
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(InvalidInput, match=reason):
        settings(tmp_path)


@pytest.mark.parametrize("key", ["enter", "x", "ctrl+j", "ctrl+p", "up", "kontrol+n", "f99", ""])
def test_a_key_that_writing_needs_or_that_is_none_is_refused(tmp_path, key):
    (tmp_path / "settings.toml").write_text(f'[keys]\nwhy = "{key}"\n')
    with pytest.raises(ConfigError, match=f"key '{re.escape(key)}' of 'why' cannot be used"):
        settings(tmp_path)


@pytest.mark.parametrize("key", ["f12", "shift+f5", "alt+w", "ctrl+shift+l", "ctrl+pageup"])
def test_any_other_key_may_be_given_to_a_command(tmp_path, key):
    (tmp_path / "settings.toml").write_text(f'[keys]\nwhy = "{key}"\n')
    assert settings(tmp_path).keys == {"why": key}


def test_wrong_settings_are_an_error_of_the_settings(tmp_path):
    (tmp_path / "settings.toml").write_text("them = 1")
    with pytest.raises(ConfigError):
        settings(tmp_path)


def test_of_many_scenarios_a_message_lists_some(desk):
    many = replace(desk, people=pack("test"))
    with pytest.raises(UnknownName, match=r"known: test-000\S+, .* and 76 more$"):
        many.begin(Mode.HELP, "nobody")
