"""Every code block of the documentation is parsed, and those that people would type are run."""

import doctest
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from iterppo.pipeline import STAGES
from tests.conftest import Command
from tests.docs import blocks
from tests.docs.blocks import (
    Block,
    blocks_of,
    is_like,
    pages,
    problems_of,
    text_of,
    transcript,
)

RUN = ["docs/choosing.md", "docs/concepts.md", "docs/serving.md", "docs/your-logs.md"]
"""Pages whose files are written, whose Python is executed and whose transcripts are replayed, in
the order of the page; on all other pages blocks are parsed."""


def settings_of(section: str) -> set[str]:
    fields = STAGES[section].config.model_fields.items()
    return {field.alias or name for name, field in fields}


@pytest.mark.parametrize("page", pages())
def test_every_block_of_a_page_is_right(page: str, tmp_path: Path) -> None:
    found = []
    for block in blocks_of(text_of(page)):
        if block.title:
            write(block, tmp_path)
        found += problems_of(block, tmp_path)

    assert found == []


@pytest.mark.parametrize("page", RUN)
def test_what_a_page_runs_does_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page}
    num_run = 0
    for block in blocks_of(text_of(page)):
        if block.title:
            write(block, tmp_path)
        elif block.language == "python" and ">>> " in block.text:
            run_examples(block, names)
            num_run += 1
        elif block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
            num_run += 1
        elif block.language == "console":
            replay(block, command)
            num_run += 1

    assert num_run > 0


@pytest.mark.parametrize("page", pages())
def test_every_setting_that_a_page_names_exists(page: str) -> None:
    named = re.findall(rf"`({'|'.join(STAGES)})\.([a-z_]+)\b", text_of(page))
    files = {"csv", "html", "json", "jsonl", "md", "parquet", "py", "toml"}
    unknown = {
        f"{section}.{key}"
        for section, key in named
        if key not in files and key not in settings_of(section)
    }

    assert unknown == set()


@pytest.mark.parametrize("page", pages())
def test_every_link_of_a_page_leads_to_a_file_of_the_checkout(page: str) -> None:
    """Pages that only the built site has are not there for whoever reads the files."""
    prose = re.sub(r"^ *```.*?^ *```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose))
    folder = (blocks.ROOT / page).parent
    dead = [
        target
        for target in targets
        if "://" not in target
        and not target.startswith("#")
        and not (folder / target.partition("#")[0]).exists()
    ]

    assert dead == []


@pytest.mark.parametrize("page", pages())
def test_every_command_that_a_page_names_in_passing_exists(page: str) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    unknown = set()
    for code in re.findall(r"`(?:\.venv/bin/)?iterppo ([a-z][^`]*)`", prose):
        name, *words = shlex.split(code)
        known = blocks.commands().get(name)
        options = {option for each in known.params for option in each.opts} if known else set()
        missing = [word for word in words if word.startswith("--") and word not in options]
        if known is None or missing:
            unknown.add(f"iterppo {name} {' '.join(missing)}")

    assert unknown == set()


@pytest.mark.parametrize(
    ("language", "text"),
    [
        pytest.param("bash", "iterppo ingest --no-such-option x\n", id="an option"),
        pytest.param("bash", "cd x && .venv/bin/iterppo nonsense\n", id="a command"),
        pytest.param("bash", "iterppo ppo --round r --set ppo.nonsense=1\n", id="a setting"),
        pytest.param("bash", "iterppo ppo --round r --config configs/none.toml\n", id="a file"),
        pytest.param("bash", "make nonsense\n", id="a target of make"),
        pytest.param("bash", "make round NONSENSE=1\n", id="a variable of make"),
        pytest.param("bash", "pip install 'iterppo[nonsense]'\n", id="an extra"),
        pytest.param("bash", "python -m benchmarks.nonsense --quick\n", id="a benchmark"),
        pytest.param("bash", "if true; then\n", id="the shell's grammar"),
        pytest.param("crontab", "61 3 * * * make round\n", id="a minute"),
        pytest.param("crontab", "1 3 * * * date +%F\n", id="a percent sign for cron"),
        pytest.param("json", '{"messages": [{"role": "customer"}]}\n', id="a message"),
        pytest.param("python", "def f(:\n", id="Python's grammar"),
        pytest.param("sql", "SELEC 1\n", id="SQL's grammar"),
        pytest.param("toml", "[ppo]\nnonsense = 1\n", id="a key of a configuration"),
        pytest.param("yaml", "jobs: {a: {steps: [{run: make nonsense}]}}\n", id="a workflow"),
        pytest.param("cobol", "", id="a language"),
    ],
)
def test_a_mistake_in_a_block_is_found(language: str, text: str, tmp_path: Path) -> None:
    assert len(problems_of(Block(1, language, "", text), tmp_path)) == 1


def test_a_block_within_a_list_is_found_with_its_file_name() -> None:
    found = blocks_of('1. First\n\n    ```toml title="a.toml"\n    seed = 1\n    ```\n')

    assert found == [Block(3, "toml", "a.toml", "seed = 1\n")]


def test_what_is_said_to_be_printed_may_leave_lines_out_and_nothing_else() -> None:
    assert doctest.testmod(blocks).failed == 0


def write(block: Block, folder: Path) -> None:
    file = folder / block.title
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, encoding="utf-8")


def run_examples(block: Block, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, names, "block", None, block.line)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    result = runner.run(test, out=report.append, clear_globs=False)
    names |= test.globs
    assert result.failed == 0, "".join(report)


def replay(block: Block, command: Command) -> None:
    for line, said in transcript(block.text):
        words = shlex.split(line.replace("\\\n", " "))
        if words[0] == "iterppo":
            status, stdout, stderr = command(*words[1:])
        else:
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
            status, stdout, stderr = done.returncode, done.stdout, done.stderr
        assert status == 0, f"{line}: {stderr}"
        printed = [each.rstrip() for each in stdout.splitlines()]
        assert not said or is_like(said, printed), f"{line} printed:\n{stdout}"


def test_the_pages_that_are_run_are_pages() -> None:
    assert set(RUN) <= set(pages())
