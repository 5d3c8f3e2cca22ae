"""The site: pages that are made from the code, links, and a build without a warning."""

import json
import os
import posixpath
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from iterppo.contracts import ROWS
from iterppo.contracts.base import columns
from iterppo.pipeline import STAGES
from tests.docs.blocks import ROOT
from tools import documentation, reference

HERE = documentation.generated() | {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md")
}
"""Every page of the site, as Markdown, by its path."""

LINK = re.compile(r"(?<!!)\[[^\]\[]+\]\(([^)\s]+)\)")


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_the_page_of_a_stage_has_its_options_settings_and_columns(stage: reference.Stage) -> None:
    page = reference.stage_page(stage)
    options = [option for each in reference.commands()[stage.name].params for option in each.opts]
    settings = [field.alias or name for name, field in stage.config.model_fields.items()]
    kinds = [slot.kind for slot in stage.writes if slot.kind in ROWS]
    named = [column["name"] for kind in kinds for column in columns(ROWS[kind])]

    shown = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    assert {each for each in options if each.startswith("--")} <= shown
    assert {*settings, *named} <= shown
    for name, field in stage.config.model_fields.items():
        assert " ".join((field.description or name).split()).replace("|", "\\|") in page


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_the_page_of_a_stage_says_which_option_names_each_input_and_output(
    stage: reference.Stage,
) -> None:
    table = re.findall(
        r"^\| (?:reads|writes) .*\| (`--[\w-]+`)? \|$", reference.stage_page(stage), re.M
    )

    assert len(table) == len(stage.reads) + len(stage.writes)
    assert all(table)


def test_the_page_of_settings_says_what_a_setting_takes() -> None:
    page = reference.stage_page(STAGES["ppo"])

    assert "| `clip` | number, > 0 | `0.2` | ε of the clipped surrogate. |" in page
    assert '| `kl_in` | `reward`, `loss` | `"reward"` |' in page
    assert "| `whiten_advantages` | `true` or `false` | `true` |" in page


@pytest.mark.parametrize(
    ("stage", "headings"),
    [
        pytest.param("ingest", ["mapping", '{by = "events"}'], id="of a list, and alone"),
        pytest.param("evaluate", ["guardrails", "guardrails.length"], id="within one another"),
    ],
)
def test_tables_of_settings_stand_on_the_page_under_their_setting(
    stage: str, headings: list[str]
) -> None:
    shown = re.findall(r"^### (.+)$", reference.stage_page(STAGES[stage]), re.MULTILINE)

    assert len(set(shown)) == len(shown)
    for heading in headings:
        assert f"`{heading}`" in shown


def test_every_command_has_a_page() -> None:
    headings = set(re.findall(r"^## (.+)$", reference.commands_page(), re.MULTILINE))

    assert headings == set(reference.commands()) - set(STAGES)


def test_every_link_within_the_site_leads_to_a_page() -> None:
    dead = []
    for page, markdown in HERE.items():
        prose = re.sub(r"^ *```.*?^ *```", "", markdown, flags=re.DOTALL | re.MULTILINE)
        text = prose if page.startswith("stages/") else documentation.relinked(prose, page)
        for target in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target.split("#")[0]))
            if "://" not in target and not target.startswith("#") and path not in HERE:
                dead.append(f"{page}: {target}")

    assert dead == []


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        pytest.param("index.md", "[a](docs/logs.md)", "[a](logs.md)", id="from the README"),
        pytest.param("logs.md", "[a](../README.md#x)", "[a](index.md#x)", id="to the README"),
        pytest.param("configurations.md", "[a](../docs/ppo.md)", "[a](ppo.md)", id="from a folder"),
        pytest.param(
            "logs.md", "[a](../Makefile)", "a (`Makefile`)", id="to a file that is no page"
        ),
        pytest.param("logs.md", "[a](nowhere.md)", "[a](nowhere.md)", id="to nothing"),
        pytest.param("logs.md", "[a](https://b.org/c)", "[a](https://b.org/c)", id="elsewhere"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(
    page: str, link: str, expected: str
) -> None:
    assert documentation.relinked(link, page) == expected


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        pytest.param("c_i, m_1.", "c<sub>i</sub>, m<sub>1</sub>.", id="an index"),
        pytest.param("r_{i+1} and π_{k+1}", "r<sub>i+1</sub> and π<sub>k+1</sub>", id="in braces"),
        pytest.param("Q^π, V^π'(s_0)", "Q<sup>π</sup>, V<sup>π'</sup>(s<sub>0</sub>)", id="above"),
        pytest.param("max_steps, a_file.md", "max_steps, a_file.md", id="a name"),
        pytest.param("`c_i` and `Q^π`", "`c_i` and `Q^π`", id="code"),
        pytest.param("a\n\n    c_i + Q^π\n\nb", "a\n\n    c_i + Q^π\n\nb", id="a formula"),
        pytest.param("```text\nc_i\n```\n", "```text\nc_i\n```\n", id="a block"),
    ],
)
def test_indices_of_the_notation_are_written_as_such(prose: str, expected: str) -> None:
    assert documentation.with_indices(prose) == expected


def test_a_page_that_the_navigation_does_not_name_stands_at_its_end() -> None:
    nav = [{"Start": ["a.md", {"B": "b.md"}]}, "c.md"]

    assert documentation.unnamed(nav, ["d.md", "c.md", "b.md", "a.md", "e/f.md"]) == [
        "d.md",
        "e/f.md",
    ]


class Asked(HTMLParser):
    """What a browser would fetch from another host by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        fetched = named.get("src") if tag in ("script", "img", "iframe") else None
        if tag == "link" and named.get("rel") in ("stylesheet", "preload", "preconnect", "icon"):
            fetched = named.get("href")
        if fetched and re.match(r"(https?:)?//", fetched):
            self.found.add(fetched)


@pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("material") is None,
    reason="mkdocs-material is not here: make docs, or make setup EXTRAS=test,docs",
)
def test_the_site_is_built_without_a_warning_and_asks_nothing_of_another_host(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    built = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html"))
    assert {page.removesuffix(".md") + ".html" for page in HERE} == set(built) - {"404.html"}
    asked = Asked()
    for name in built:
        asked.feed((tmp_path / name).read_text(encoding="utf-8"))
    assert asked.found == set()
    assert json.loads((tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"))
