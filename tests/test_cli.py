"""The commands: what they print, what they refuse, and how they end."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from heartloop import cli
from heartloop.errors import MissingExtra, TrainingFailure
from heartloop.rewards.answers import VERIFIERS
from heartloop.rewards.fact_judge import FactJudge
from heartloop.simusers.scenario import pack

FIRST = pack("test")[0].id


def run(capsys, *words):
    code = cli.main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *words):
    """The one line that a command says to wrong input."""
    code, out, err = run(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    assert err.startswith("heartloop: ")
    return err


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "neutral.jsonl"
    assert cli.main(["evaluate", "neutral", "--number", "3", "--out", str(path)]) == 0
    return path


def test_every_command_explains_itself_with_an_example(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    commands = out.split("Commands:")[1].splitlines()[1:]
    names = [line.split()[0] for line in commands if line.strip()]
    listed = (
        "play chat serve train submit warmup report evaluate rescore repeatability solve stress",
        "verify version scenarios",
    )
    assert names == " ".join(listed).split()
    pages = [[n] for n in names[:-1]] + [
        ["scenarios", n] for n in "build list show validate".split()
    ]
    for page in pages:
        code, out, _ = run(capsys, *page, "--help")
        assert code == 0
        assert f"Example: heartloop {' '.join(page)}" in out
        assert max(map(len, out.splitlines())) <= 80


def test_without_a_command_help_is_shown(capsys):
    assert "Commands:" in run(capsys)[1]


def test_help_comes_at_once():
    def spent(code):
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before

    shown = "import sys; from heartloop.cli import main; sys.exit(main(['--help']))"
    # Beside what the library of the commands takes by itself, in turn on the same machine.
    bare = min(spent("import typer, pydantic, rich.console") for _ in range(3))
    assert min(spent(shown) for _ in range(3)) < 5.5 * bare


def test_no_heavy_library_is_imported_for_help():
    code = (
        "import sys; from heartloop.cli import main; main(['--help']);"
        "sys.exit(bool({'torch', 'matplotlib', 'ray', 'transformers', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_play_shows_a_scored_dialogue_and_repeats_it(capsys):
    words = ("play", "reflective", "--scenario", FIRST, "--seed", "5")
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert FIRST in out
    assert "40.0 →" in out
    assert max(map(len, out.splitlines())) <= 80
    assert run(capsys, *words)[1] == out
    assert run(capsys, *words[:-1], "6")[1] != out


def test_play_takes_hackers_too(capsys):
    assert "hidden goal" in run(capsys, "play", "hacker:goal-probe")[1]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("play", "reflectiv"), "reflective"),
        (("play", "hacker:parot"), "parrot"),
        (("play", "--user", "embeded"), "embedded"),
        (("play", "--preset", "sage"), "sage-eval"),
        (("play", "--scenario", FIRST[:-1] + "x"), FIRST),
        (("play", "--scenarios", "nowhere.jsonl"), "nowhere.jsonl"),
        (("play", "--seed", "-1"), "--seed"),
        (("train", "nowhere.toml"), "nowhere.toml"),
        (("warmup", "--out", "/dev/null"), "/dev/null"),
        (("warmup",), "--out"),
        (("evaluate", "nobody"), "silent"),
        (("evaluate", "neutral", "--out", "/nowhere/x.jsonl"), "/nowhere/x.jsonl"),
        (("evaluate", "neutral", "--reward", "finale"), "final"),
        (("stress", "--policy", "nutral"), "neutral"),
        (("stress", "--n", "0"), "--n"),
        (("verify", "nowhere.jsonl"), "nowhere.jsonl"),
        (("report", "nowhere"), "config.json"),
        (("version", "now"), "now"),
        (("scenarios",), "command"),
        (("scenarios", "build", "exam", "--out", "x.jsonl"), "exam"),
        (("scenarios", "list", "exam"), "exam"),
        (("scenarios", "show", "zzz"), "scenarios list"),
        (("scenarios", "validate", "nowhere.jsonl"), "nowhere.jsonl"),
        (("nonsense",), "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_input_is_refused_in_one_line(capsys, tmp_path, monkeypatch, words, hint):
    monkeypatch.chdir(tmp_path)
    assert hint in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_setting_names_the_nearest(capsys, tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("[rl]\nstep = 3\n")
    assert "rl.steps" in refused(capsys, "train", str(config))
    config.write_text("")
    assert "rl.group" in refused(capsys, "train", str(config), "--set", "rl.groop=4")


def test_train_hands_over_the_settings_of_file_and_options(tmp_path, monkeypatch, capsys):
    training = pytest.importorskip("heartloop.policy.train.run")
    called = {}
    monkeypatch.setattr(
        training, "train", lambda config, **more: called.update(more, config=config)
    )
    (tmp_path / "a.toml").write_text("[rl]\nsteps = 3\n")
    out = tmp_path / 'odd "name"'
    code, _, _ = run(
        capsys, "train", str(tmp_path / "a.toml"), "--set", "rl.group=4", "--out", str(out)
    )
    assert code == 0
    config = called["config"]
    assert (config.rl.steps, config.rl.group, config.run.out) == (3, 4, out)
    assert called["resume"] is False


@pytest.mark.parametrize(
    ("error", "code"),
    [(TrainingFailure("a\nb"), 1), (MissingExtra("c"), 1)],
    ids=lambda value: type(value).__name__,
)
def test_failures_end_with_their_code_and_one_line(capsys, monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr("heartloop.policy.base.make_policy", fail)
    ended, _, err = run(capsys, "play")
    assert (ended, err.count("\n")) == (code, 1)


def test_an_interrupt_ends_a_command_with_130(capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("heartloop.policy.base.make_policy", stop)
    code, _, err = run(capsys, "play")
    assert code == 130
    assert "Traceback" not in err


def test_evaluate_prints_figures_as_a_table_and_as_json(capsys, recorded):
    assert "mean final emotion" in capsys.readouterr().out
    code, out, _ = run(capsys, "evaluate", "neutral", "--number", "3", "--json")
    assert code == 0
    assert json.loads(out)["final"]["n"] == 3
    assert len(recorded.read_text().splitlines()) == 3


def test_evaluate_overwrites_nothing(capsys, recorded):
    capsys.readouterr()
    before = recorded.read_bytes()
    assert str(recorded) in refused(capsys, "evaluate", "neutral", "--out", str(recorded))
    assert recorded.read_bytes() == before


def test_verify_counts_what_holds(capsys, recorded):
    capsys.readouterr()
    assert run(capsys, "verify", str(recorded)) == (0, "3 episodes verified\n", "")


def test_verify_names_file_and_line_of_a_changed_digit(capsys, recorded):
    capsys.readouterr()
    lines = recorded.read_text().splitlines(keepends=True)
    episode = json.loads(lines[1])
    episode["turns"][0]["reaction"]["emotion"] += 1
    lines[1] = json.dumps(episode) + "\n"
    recorded.write_text("".join(lines))
    code, out, err = run(capsys, "verify", str(recorded))
    assert code == 1
    assert out.startswith(f"{recorded}:2: turns.0.reaction.emotion: ")
    assert "mismatch" in err


def test_verify_names_a_line_that_is_no_episode(capsys, recorded):
    with recorded.open("a") as file:
        file.write("{\n")
    capsys.readouterr()
    code, out, _ = run(capsys, "verify", str(recorded))
    assert code == 2
    assert f"{recorded}:4: " in out


def test_verify_does_not_take_an_empty_file_for_a_good_one(capsys, tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert "no episode" in refused(capsys, "verify", str(tmp_path / "a.jsonl"))


def test_stress_ends_with_one_when_a_hacker_is_over_its_bound(capsys, monkeypatch):
    from heartloop.policy.evals import stress

    monkeypatch.setattr(stress, "MARGIN", -100.0)
    code, out, err = run(capsys, "stress", "--n", "2", "--json")
    assert code == 1
    assert json.loads(out)["passed"] is False
    assert "over their bound: orders" in err


def test_scenarios_are_built_listed_shown_and_validated(capsys, tmp_path):
    out = str(tmp_path / "some.jsonl")
    assert run(capsys, "scenarios", "build", "test", "--number", "3", "--out", out)[0] == 0
    listed = run(capsys, "scenarios", "list", out)[1].splitlines()
    assert len(listed) == 3
    name = listed[0].split()[0]
    shown = run(capsys, "scenarios", "show", name, "--scenarios", out)[1]
    assert json.loads(shown)["id"] == name
    assert "3 scenarios, all valid" in run(capsys, "scenarios", "validate", out)[1]
    assert "exists" in refused(capsys, "scenarios", "build", "test", "--out", out)


def test_a_broken_scenario_is_named_by_its_line(capsys, tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text(pack("test")[0].model_dump_json() + "\n{\n")
    assert f"{path}:2" in refused(capsys, "scenarios", "validate", str(path))


def test_a_report_is_written_once(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "config.json").write_text("{}")
    code, out, _ = run(capsys, "report", str(tmp_path))
    assert (code, out) == (0, f"{tmp_path / 'report.html'}\n")
    assert "exists" in refused(capsys, "report", str(tmp_path))
    again = tmp_path / "again.html"
    assert run(capsys, "report", str(tmp_path), "--out", str(again))[0] == 0
    assert again.exists()


def test_version_names_the_user_and_the_verifiers_that_score(capsys):
    out = run(capsys, "version")[1]
    assert out.startswith("heartloop ")
    assert "embedded/" in out
    assert all(f"\n{check.id}\n" in out for check in VERIFIERS.values())
    assert f"\n{FactJudge.version}\n" in out


def test_a_reader_that_leaves_early_hears_no_complaint():
    code = "import sys; from heartloop.cli import main; sys.exit(main(sys.argv[1:]))"
    first = subprocess.Popen(
        [sys.executable, "-c", code, "scenarios", "list", "train"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    first.stdout.close()
    assert first.stderr.read() == b""
    first.wait()
