"""Code blocks of the documentation, and what is right and wrong about them.

A page is what people read: README.md, CONTRIBUTING.md, configs/README.md and docs/**.md.
"""

import ast
import doctest
import json
import re
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import typer
import yaml
from typer.exceptions import TyperException

from iterppo.cli import app
from iterppo.config_loading import load_config
from iterppo.errors import IterPPOError
from iterppo.logs.event_logs import load_mapping
from iterppo.logs.records import parse_line
from iterppo.pipeline import STAGES, sections
from iterppo.progress import loudness, set_loudness

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block: ```language title="file"."""

    line: int
    language: str
    title: str
    text: str


def pages() -> list[str]:
    """From the repository's root, in alphabetical order."""
    named = ["CONTRIBUTING.md", "README.md", "configs/README.md"]
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    return sorted([*named, *found])


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(markdown: str) -> list[Block]:
    """Every fenced block; one within a list loses the list's indentation."""
    found: list[Block] = []
    inside: list[str] | None = None
    fence = indent = info = ""
    begun = 0
    for number, line in enumerate(markdown.splitlines(), 1):
        opened = re.match(r"( *)(`{3,})(.*)$", line)
        if inside is None and opened:
            indent, fence, info = opened.groups()
            inside, begun = [], number
        elif inside is not None and line.strip() == fence:
            language = re.match(r"\s*([\w-]*)", info)
            title = re.search(r'title="([^"]+)"', info)
            assert language is not None
            text = "".join(f"{each.removeprefix(indent)}\n" for each in inside)
            found.append(Block(begun, language[1], title[1] if title else "", text))
            inside = None
        elif inside is not None:
            inside.append(line)
    assert inside is None, f"the block of line {begun} is not closed"
    return found


# --- problems of a block


def problems_of(block: Block, folder: Path) -> list[str]:
    """What is wrong with a block, in words; `folder` holds the files that the page has written."""
    check = CHECKS.get(block.language)
    if check is None:
        return [f"line {block.line}: nobody checks blocks of {block.language!r}"]
    try:
        found = list(check(block.text, folder))
    except (ValueError, SyntaxError, IterPPOError, duckdb.Error, yaml.YAMLError) as error:
        found = [" ".join(str(error).split())]
    return [f"line {block.line}: {each}" for each in found]


def _shell(text: str, folder: Path) -> Iterator[str]:
    text = "\n".join(line.removeprefix("$ ") for line in text.splitlines())
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        yield done.stderr.strip()
        return
    for words in _commands(text):
        yield from _command(words, folder)


def _plain(text: str, folder: Path) -> Iterator[str]:
    """A block without a language: output, figures; lines that begin with a command of ours are
    commands."""
    for line in text.splitlines():
        if re.match(r"(\$ )?(\.venv/bin/)?iterppo [a-z-]+ |make [a-z]+", line):
            for words in _commands(line.removeprefix("$ ")):
                yield from _command(words, folder)


def _console(text: str, folder: Path) -> Iterator[str]:
    for command, _ in transcript(text):
        yield from _shell(command, folder)


def _commands(text: str) -> Iterator[list[str]]:
    """Simple commands of a script: words between `|`, `&&`, `;` and line ends."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += "…*?[]{}$:,=@%^+!#\\"
        lexer.commenters = ""
        words: list[str] = []
        for word in lexer:
            if word == "#" or (word.startswith("#") and not words):
                break
            if set(word) <= set("();<>|&"):
                if word.startswith(">") and words and words[-1].isdigit():
                    words.pop()  # 2> file
                yield words
                words = []
            elif word in ("do", "then", "else", "if", "while"):
                words = []
            else:
                words.append(word)
        yield words


def _command(words: list[str], folder: Path) -> Iterator[str]:
    names = [word.rpartition("/")[2] for word in words]
    if "iterppo" in names and "install" not in names:
        yield from _iterppo(words[names.index("iterppo") + 1 :], folder)
    elif "make" in names:
        yield from _make(words[names.index("make") + 1 :])
    elif "-m" in names and words[names.index("-m") + 1].startswith("benchmarks."):
        module = words[names.index("-m") + 1]
        if not (ROOT / f"{module.replace('.', '/')}.py").exists():
            yield f"there is no {module}"
    for extras in re.findall(r"iterppo\[([\w,]+)\]", " ".join(words)):
        for extra in extras.split(","):
            if extra not in PROJECT["project"]["optional-dependencies"]:
                yield f"there is no extra {extra}"


@cache
def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = group.commands
    return found


def _iterppo(words: list[str], folder: Path) -> Iterator[str]:
    words = [word for word in words if word != "--version"]
    if not words or words == ["--help"]:
        return
    name, *arguments = words
    if name not in commands():
        yield f"there is no command iterppo {name}"
        return
    if "--help" in arguments:
        return
    before = loudness()
    try:
        given = commands()[name].make_context(name, arguments).params
    except TyperException as error:
        yield f"iterppo {' '.join(words)}: {error}"
        return
    finally:
        set_loudness(before)  # --quiet is heard as it is read
    if name in STAGES:
        file = given.get("config")
        if file is not None:
            file = folder / file if (folder / file).exists() else ROOT / file
        settings = [text for text in given.get("settings") or () if "$" not in text]
        load_config(name, STAGES[name].config, file=file, settings=settings, sections=sections())


def _make(words: list[str]) -> Iterator[str]:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \??=", MAKEFILE, re.MULTILINE))
    for word in words:
        variable, equals, _ = word.partition("=")
        if equals and variable not in variables:
            yield f"make knows no {variable}"
        elif not equals and not word.startswith("-") and word not in targets:
            yield f"make has no target {word}"


def _python(text: str, _: Path) -> Iterator[str]:
    if ">>> " in text:
        doctest.DocTestParser().get_examples(text)
    else:
        ast.parse(text)
    yield from ()


def _toml(text: str, folder: Path) -> Iterator[str]:
    content = tomllib.loads(text)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "page.toml"
        file.write_text(text, encoding="utf-8")
        if set(content) <= {"seed", *STAGES}:
            load_config("ingest", STAGES["ingest"].config, file=file, sections=sections())
        elif {"columns", "roles", "time_format"} & set(content):
            load_mapping(file)
    yield from ()


def _json(text: str, _: Path) -> Iterator[str]:
    content = json.loads(text)
    if isinstance(content, dict):
        _conversation(content)
    yield from ()


def _json_lines(text: str, _: Path) -> Iterator[str]:
    for line in text.splitlines():
        _conversation(json.loads(line))
    yield from ()


def _conversation(content: dict[str, Any]) -> None:
    """A conversation in our own format is one that `ingest` takes."""
    messages = content.get("messages", [])
    if any(message.get("role") in ("customer", "business") for message in messages):
        parse_line(json.dumps(content).encode())


def _yaml(text: str, folder: Path) -> Iterator[str]:
    content = yaml.safe_load(text)
    for job in content.get("jobs", {}).values() if isinstance(content, dict) else ():
        for step in job["steps"]:
            if "run" in step:
                yield from _shell(step["run"], folder)
            elif "uses" not in step:
                yield f"a step that does nothing: {step}"


_FIELD = r"(?:\*|\d+(?:-\d+)?)(?:/\d+)?(?:,(?:\*|\d+(?:-\d+)?)(?:/\d+)?)*"


def _crontab(text: str, folder: Path) -> Iterator[str]:
    for line in text.splitlines():
        if not line.strip() or line.startswith("#") or re.match(r"[A-Z_]+ ?=", line):
            continue
        entry = re.fullmatch(rf"((?:{_FIELD} +){{4}}{_FIELD}) +(.+)", line)
        if entry is None:
            yield f"no line of a crontab: {line}"
            continue
        fields = zip(entry[1].split(), (59, 23, 31, 12, 7), strict=True)
        for field, most in fields:
            if any(int(number) > most for number in re.findall(r"(?<!/)\d+", field)):
                yield f"{field} is more than {most}: {line}"
        if re.search(r"(?<!\\)%", entry[2]):
            yield f"cron takes % for a line break: {line}"
        yield from _shell(entry[2].replace("\\%", "%"), folder)


def _sql(text: str, _: Path) -> Iterator[str]:
    duckdb.extract_statements(text)
    yield from ()


def _nothing(_: str, __: Path) -> Iterator[str]:
    yield from ()


CHECKS: dict[str, Callable[[str, Path], Iterator[str]]] = {
    "": _plain,
    "bash": _shell,
    "console": _console,
    "crontab": _crontab,
    "csv": _nothing,
    "diff": _nothing,  # applied, where it stands in CONTRIBUTING.md
    "json": _json,
    "jsonl": _json_lines,
    "python": _python,
    "sparksql": _nothing,  # run by tests/test_recipes.py
    "sql": _sql,
    "text": _nothing,
    "toml": _toml,
    "yaml": _yaml,
}


# --- what is run


def transcript(text: str) -> list[tuple[str, list[str]]]:
    """Commands (`$ …`, going on behind a backslash) with the lines that they are said to print."""
    found: list[tuple[str, list[str]]] = []
    goes_on = False
    for line in text.splitlines():
        if goes_on:
            command, _ = found[-1]
            found[-1] = (f"{command}\n{line}", [])
            goes_on = line.endswith("\\")
        elif line.startswith("$ "):
            found.append((line[2:], []))
            goes_on = line.endswith("\\")
        else:
            assert found, f"output without a command: {line}"
            found[-1][1].append(line)
    return found


def is_like(said: list[str], printed: list[str]) -> bool:
    """Whether this was printed; a line `…` stands for any lines, at the end of a line for its
    rest.

    >>> is_like(["a", "…", "b …"], ["a", "x", "y", "b c"]), is_like(["a"], ["a", "b"])
    (True, False)
    """
    pattern = "".join(
        r"(?:.*\n)*" if line.strip() == "…" else _line_pattern(line) + r"\n" for line in said
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def _line_pattern(line: str) -> str:
    head, rest, _ = line.partition("…")
    return re.escape(head.rstrip()) + (".*" if rest else r" *")
