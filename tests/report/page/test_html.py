"""The page as HTML: what it says, what it must not do, and that it can be read."""

import errno
import itertools
import os
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from iterppo.errors import UsageError
from iterppo.report.page.html import report_page, write_page
from iterppo.report.page.run import read_run
from iterppo.statistics.intervals import newcombe_interval, wilson_interval
from tests.report.page.made_run import EVIL, write_turns

VOID = {"meta", "input", "img", "br", "link", "hr"}


class Outline(HTMLParser):
    """Elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_the_decision_comes_first_with_the_numbers_that_made_it(page: str) -> None:
    text = Outline(page).text

    assert text.index("Ship π₁") < text.index("Success by round") < text.index("Round 000")
    assert "75.0 % of 40 conversations with π₁ succeeded, and 25.0 % of 40 with π₀" in text
    low, high = wilson_interval(30, 40)
    base_low, base_high = newcombe_interval(30, 40, 10, 40)
    step = f"+50.0 [{100 * base_low:+.1f}, {100 * base_high:+.1f}]"
    assert f"0.750 [{low:.3f}, {high:.3f}] {step} 30 40 0" in text


def test_a_round_says_all_that_is_known_of_it(page: str) -> None:
    text = Outline(page).text

    assert "Lines of the log What Number Share read 41" in text
    assert "usable Q ranks actions." in text
    assert "Explained variance, against a constant 0.125 [−0.062, 0.500] above 0" in text
    for title in ("Returns by turn", "Calibration of Q", "Held-out Q", "Reward against KL"):
        assert title in text
    labels = [attributes.get("aria-label", "") for _, attributes in Outline(page).elements]
    for title in ("Reward", "KL from the policy before", "Entropy", "Value loss"):
        assert f"{title} over the updates, from 0.125 to 1." in labels
    assert "ingest.heldout 0.2 0.25" in text
    assert "000/policy policy@1 π₁ 000/prompts, 000/q, 000/init" in text


def test_texts_of_logs_are_text(page: str) -> None:
    outline = Outline(page)

    assert outline.open == []
    assert Counter(tag for tag, _ in outline.elements)["script"] == 1
    assert not [tag for tag, _ in outline.elements if tag in ("img", "i")]
    assert " ".join(EVIL.split()) in outline.text
    assert f"Now {EVIL}" in outline.text
    assert not [
        name for _, attributes in outline.elements for name in attributes if name[:2] == "on"
    ]


def test_only_the_pages_own_script_may_run_and_nothing_may_be_loaded(page: str) -> None:
    outline = Outline(page)
    policy = next(
        attributes["content"]
        for tag, attributes in outline.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )

    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='(;|$)", policy)
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//|url\((?!#)|@import", page)


def test_the_page_can_be_read_without_eyes_or_a_mouse(page: str) -> None:
    outline = Outline(page)
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    named = [
        each
        for _, attributes in outline.elements
        for each in attributes.get("aria-labelledby", "").split()
    ]
    links = [
        attributes["href"]
        for _, attributes in outline.elements
        if attributes.get("href", "").startswith("#")
    ]
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h[1-6]", tag)]

    assert len(ids) == len(set(ids))
    assert set(named) <= set(ids)
    assert {link[1:] for link in links} <= set(ids)
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for tag, attributes in outline.elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if "scroll" in attributes.get("class", "").split():
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]


def test_equal_artifacts_give_an_equal_page(made_run: Path, page: str) -> None:
    assert report_page(read_run(made_run), conversations=40)[0] == page


def test_without_conversations_no_text_of_a_log_is_in_the_page(made_run: Path) -> None:
    page = report_page(read_run(made_run), conversations=0)[0]

    assert "Question 3" not in page
    assert "better 3" not in page
    assert "Then and now" not in page


def test_a_half_finished_run_says_what_is_missing_and_how_to_go_on(
    made_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for name in ("trajectories", "rejects", "returns"):
        shutil.copytree(made_run / "000" / name, run / "000" / name)
    (run / "000" / ".q.checkpoint").mkdir()

    text = Outline(report_page(read_run(run), conversations=40)[0]).text

    assert "Nothing to decide yet" in text
    assert "Not finished. Still to be made: q, prompts, policy, export." in text
    assert "Begun and not whole: q." in text
    assert f"To go on: iterppo fit-q --round {run}/000" in text
    assert "Returns by turn" in text


def _copy_without_policy(made_run: Path, run: Path) -> None:
    """Fewer figures: a page that is made sooner."""
    shutil.copytree(made_run, run, ignore=shutil.ignore_patterns("policy"))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        pytest.param("returns/part-00000.parquet", "bytes where manifest.json says", id="cut off"),
        pytest.param("q/metrics.json", "missing", id="lost"),
        pytest.param("prompts/manifest.json", "damaged", id="no manifest to speak of"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(
    made_run: Path, tmp_path: Path, file: str, said: str
) -> None:
    run = tmp_path / "run"
    _copy_without_policy(made_run, run)
    damaged = run / "000" / file
    if file.endswith("metrics.json"):
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:40])

    text = Outline(report_page(read_run(run), conversations=0)[0]).text

    assert re.search(rf"{re.escape(str(damaged))}: .*{said}", text)
    assert "Success by round" in text


def test_a_part_that_is_no_parquet_is_named_and_the_rest_is_shown(
    made_run: Path, tmp_path: Path
) -> None:
    """Of the right size, so that only reading it tells."""
    run = tmp_path / "run"
    _copy_without_policy(made_run, run)
    part = run / "000" / "returns" / "part-00000.parquet"
    part.write_bytes(b"x" * part.stat().st_size)

    text = Outline(report_page(read_run(run), conversations=0)[0]).text

    assert "returns: cannot be shown" in text
    assert "Calibration of Q" in text


def test_one_round_alone_is_a_run_too(tmp_path: Path) -> None:
    write_turns(tmp_path / "trajectories", version="p0", outcomes=3)

    text = Outline(report_page(read_run(tmp_path), conversations=40)[0]).text

    assert "0.075 [" in text
    assert "Logs only" in text


def test_a_page_is_written_whole_beside_its_place(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_page("<p>\ud800ü</p>", out)

    assert out.read_text(encoding="utf-8") == "<p>?ü</p>"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(UsageError, match="is a folder"):
        write_page("", tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        write_page("", tmp_path / "nowhere" / "report.html")


def test_a_page_that_finds_no_room_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("before", encoding="utf-8")

    def full(place: Path, *_: object, **__: object) -> None:
        place.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match=r"cannot be written there \(No space left on device\)"):
        write_page("<p>after</p>", out)

    assert [place.name for place in tmp_path.iterdir()] == ["report.html"]
    assert out.read_text(encoding="utf-8") == "before"
