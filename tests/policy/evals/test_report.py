"""The report: one page, self-contained, that shows text as text."""

import json
import re
from html.parser import HTMLParser

import pytest

from heartloop.env.record import EpisodeWriter
from heartloop.errors import InvalidInput, OutputRefused, RecordError
from heartloop.policy.evals.report import compare, load_run, render, write_report
from heartloop.policy.evals.transcripts import choose
from heartloop.types import StopReason
from tests.fakes import toy_episode, toy_scenario

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
NASTY = "<script>alert(1)</script> $x^ {{ 7*7 }}"
_VOID = {"meta", "circle", "line", "polyline", "path", "use", "rect", "br"}


def side(level, text="Tell me more.", name="toy"):
    return [
        toy_episode(text, text, emotions=(level, level + n), scenario=toy_scenario(f"{name}-{n}"))
        for n in range(5)
    ]


def put(path, episodes):
    with EpisodeWriter(path) as writer:
        writer.write(*episodes)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"run": {"seed": 3, "name": NASTY}, "rl": {"prompts_per_step": 1, "group": 2}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"step": n, "loss": n / 7, "note": NASTY, "kl": None} for n in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    put(folder / "episodes.jsonl", side(50))
    put(folder / "eval-before.jsonl", side(30, NASTY))
    put(folder / "eval-after.jsonl", side(60, f"<think>{NASTY}</think>{NASTY}"))
    put(folder / "sentences-before.jsonl", side(30, name="said"))
    put(folder / "sentences-after.jsonl", side(50, NASTY, name="said"))
    return folder


class Balance(HTMLParser):
    """Checks that every element is closed, and notes what is there."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_beside_itself(run):
    page = write_report(run).read_text()
    found = Balance()
    found.feed(page)
    assert found.open == []
    assert not found.tags & {"script", "img", "link", "iframe"}
    assert all(link.startswith("#") for link in found.links)
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_no_text_of_a_run_takes_effect(run):
    page = write_report(run).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "49" not in re.findall(r"\$x\^ (\S+)", page)


def test_the_headline_is_the_paired_gain(run):
    found = load_run(run).test
    assert (found.before.final.mean, found.after.final.mean) == (32, 62)
    assert (found.gain.mean, found.gain.low, found.gain.high) == (30, 30, 30)
    page = render(load_run(run))
    assert "+30.0" in page
    assert "32.0" in page


def test_the_gap_to_sentences_is_stated(run):
    assert "\N{MINUS SIGN}10.0" in render(load_run(run)).split("somebody really wrote")[1][:400]


def test_the_same_run_gives_the_same_page(run):
    assert render(load_run(run)) == render(load_run(run))


def test_ids_of_figures_do_not_clash(run):
    ids = re.findall(r' id="([^"]+)"', render(load_run(run)))
    assert len(ids) == len(set(ids))


def test_references_within_figures_lead_somewhere(run):
    page = render(load_run(run))
    ids = set(re.findall(r' id="([^"]+)"', page))
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page))
    assert {a or b for a, b in used} <= ids


def test_an_unfinished_run_is_reported_as_far_as_it_went(run):
    for name in ("eval-after", "sentences-before", "episodes"):
        (run / f"{name}.jsonl").unlink()
    assert "no evaluation before and after yet" in render(load_run(run))


def test_a_pair_with_an_errored_side_is_left_out_and_counted():
    before, after = side(30), side(60)
    after[0] = after[0].model_copy(update={"stop": StopReason.ERROR, "error": "gone"})
    found = compare(before, after[:-1])
    assert (len(found.pairs), found.lost, found.after.errored) == (3, 2, 1)


def test_nothing_scored_on_both_sides_gives_no_gain_and_still_a_page(run):
    lost = [e.model_copy(update={"stop": StopReason.ERROR, "error": "x"}) for e in side(60)]
    (run / "eval-after.jsonl").unlink()
    put(run / "eval-after.jsonl", lost)
    assert load_run(run).test.gain is None
    assert "No scenario was scored" in render(load_run(run))


def test_loss_of_variety_is_a_sign_of_collapse():
    varied = [toy_episode(f"w{n} x{n} y{n}", scenario=toy_scenario(str(n))) for n in range(30)]
    same = [toy_episode("one reply only", scenario=toy_scenario(str(n))) for n in range(30)]
    assert compare(varied, same).collapsed
    assert not compare(varied, varied).collapsed


def test_the_best_the_median_and_the_worst_pair_are_shown():
    ends = [10, 90, 40, 60, 20]
    after = [
        toy_episode("x", emotions=(end,), scenario=toy_scenario(f"toy-{n}"))
        for n, end in enumerate(ends)
    ]
    before = [e.model_copy(update={"turns": ()}) for e in after]
    chosen = choose(list(zip(before, after, strict=True)))
    assert [p.gain for p in chosen] == [50, 0, -30]
    assert [p.label for p in chosen] == ["Largest gain", "Median gain", "Smallest gain"]
    assert len(choose(list(zip(before, after, strict=True))[:1])) == 1
    assert choose([]) == []


def test_a_report_that_exists_is_kept(run):
    (run / "report.html").write_text("mine")
    with pytest.raises(OutputRefused):
        write_report(run)
    assert (run / "report.html").read_text() == "mine"
    assert write_report(run, replace=True).read_text() != "mine"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"config\.json"):
        write_report(tmp_path)


def test_a_broken_line_is_named_by_file_and_line(run):
    with (run / "eval-after.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(RecordError, match=r"eval-after\.jsonl:6"):
        write_report(run)
    (run / "metrics.jsonl").write_text("{\n")
    (run / "eval-after.jsonl").unlink()
    with pytest.raises(InvalidInput, match=r"metrics\.jsonl:1"):
        write_report(run)
