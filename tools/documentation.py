"""What MkDocs is told when it builds the site (`make docs`; `hooks` of mkdocs.yml).

README, CHANGELOG, CONTRIBUTING and configs/README.md are pages of the site without a second copy;
stages and commands are written by `tools.reference`; a page that the navigation does not name
stands at its end.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # MkDocs loads a hook by its path
    sys.path.insert(0, str(ROOT))

from iterppo.pipeline import STAGES  # noqa: E402  (behind the path)
from tools import reference  # noqa: E402

FROM_THE_REPOSITORY = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "configs/README.md": "configurations.md",
}
"""Files outside docs/, by the page that they are."""

LINK = re.compile(r"(?<!!)\[([^\]\[]+)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


CODE = re.compile(r"(^ *```.*?^ *```|^(?: {4}|\t).*?$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
BELOW = re.compile(r"(?<![\w\\])([A-Za-zδεπΣ])_(?:\{([^{}]+)\}|([A-Za-z0-9]))(?!\w)")
ABOVE = re.compile(r"(?<![\w\\])([A-Zdγ])\^([π\w]['′]?)(?!\w)")


def with_indices(markdown: str) -> str:
    """Prose in which c_i, r_{i+1} and Q^π have real indices; code stays as it is.

    >>> with_indices("`c_i` is c_i, π_{k+1}; max_steps is not")
    '`c_i` is c<sub>i</sub>, π<sub>k+1</sub>; max_steps is not'
    """
    parts = CODE.split(markdown)
    for place in range(0, len(parts), 2):
        below = BELOW.sub(lambda m: f"{m[1]}<sub>{m[2] or m[3]}</sub>", parts[place])
        parts[place] = ABOVE.sub(r"\1<sup>\2</sup>", below)
    return "".join(parts)


def generated() -> dict[str, str]:
    """Every page that docs/ does not hold, by its path in the site."""
    pages = {
        page: (ROOT / file).read_text(encoding="utf-8")
        for file, page in FROM_THE_REPOSITORY.items()
    }
    pages["stages/index.md"] = reference.stages_page()
    pages["commands.md"] = reference.commands_page()
    pages |= {f"stages/{name}.md": reference.stage_page(stage) for name, stage in STAGES.items()}
    return pages


def source_of(page: str) -> str:
    """Where a page of the site stands in the repository, from its root."""
    by_page = {page: file for file, page in FROM_THE_REPOSITORY.items()}
    return by_page.get(page, f"docs/{page}")


def relinked(markdown: str, page: str) -> str:
    """The links of a page, which are right in the repository, as they are right in the site.

    A link to a file that is no page becomes the file's name.
    """

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        folder = posixpath.dirname(source_of(page))
        file = posixpath.normpath(posixpath.join(folder, target))
        if file in FROM_THE_REPOSITORY:
            there = FROM_THE_REPOSITORY[file]
        elif file.startswith("docs/"):
            there = file.removeprefix("docs/")
        elif (ROOT / file).exists():
            return text if text == f"`{file}`" else f"{text} (`{file}`)"
        else:
            return match[0]  # MkDocs says that it leads nowhere
        here = posixpath.dirname(page) or "."
        return f"[{text}]({posixpath.relpath(there, here)}{anchor})"

    return LINK.sub(link, markdown)


def unnamed(nav: Any, pages: list[str]) -> list[str]:
    """Pages that the navigation does not name, in alphabetical order."""
    named = set(_leaves(nav))
    return sorted(page for page in pages if page not in named)


def _leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [leaf for each in inner for leaf in _leaves(each)]


# --- the events of MkDocs


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: stages in their order, and what nobody has named yet."""
    assert config.nav is not None
    stages: list[Any] = ["stages/index.md", *(f"stages/{name}.md" for name in STAGES)]
    here = Path(config.docs_dir)
    written = [path.relative_to(here).as_posix() for path in here.rglob("*.md")]
    decisions = sorted(page for page in written if page.startswith("decisions/0"))
    for section in config.nav:
        if "Reference" in section:
            section["Reference"].insert(0, {"Stages": stages})
        if "Background" in section:
            section["Background"].append({"Decisions": ["decisions/index.md", *decisions]})
    if more := unnamed(config.nav, written):
        config.nav.append({"More": more})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    from mkdocs.structure.files import File  # noqa: PLC0415  (the tests of links do without)

    for path, content in generated().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turn links of the repository into links of the site, and write indices as such."""
    path = page.file.src_uri
    linked = markdown if path.startswith("stages/") else relinked(markdown, path)
    return with_indices(linked)
