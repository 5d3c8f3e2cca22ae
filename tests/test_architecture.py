"""Who may import whom (the rooms of the package), read from the source; nothing is imported.

A room is what stands directly under `iterppo`: a module, or a folder with all that is in it.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The table: room -> the rooms that it may import besides itself. A new room is a new line.
BASE = {"errors", "contracts"}
LOWER = BASE | {"artifact", "config", "engines", "logs", "personas", "pipeline", "progress", "rl"}
MIDDLE = {"environments", "lm", "report", "statistics"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "contracts": {"errors"},
    "artifact": BASE,
    "personas": set(),
    "config": BASE | {"personas"},
    "config_loading": BASE | {"config"},
    "logs": BASE | {"artifact", "config", "progress"},
    "rl": BASE,
    "progress": {"errors"},
    "launch": {"errors", "artifact"},
    "engines": {"errors", "artifact"},
    "pipeline": BASE | {"config"},
    "execution": BASE
    | {"artifact", "config", "config_loading", "engines", "environments", "launch", "logs"}
    | {"pipeline", "progress"},
    "freshness": BASE | {"artifact", "execution", "logs", "pipeline"},
    "environments": LOWER,
    "lm": LOWER,
    "report": LOWER | {"statistics"},
    "statistics": LOWER,
    "stages": LOWER | MIDDLE,
    "assignment": {"errors"},
    "cli_options": LOWER,
    "cli_decisions": LOWER | MIDDLE | {"assignment", "cli_options", "execution"},
    "cli_logs": LOWER | {"cli_options", "cli_run"},
    "cli_looks": LOWER | MIDDLE | {"cli_options", "freshness"},
    "cli_policy": LOWER | MIDDLE | {"cli_options", "cli_run", "launch"},
    "cli_report": LOWER | MIDDLE,
    "cli_run": LOWER | MIDDLE | {"execution", "launch"},
    "cli_storage": LOWER | {"cli_options"},
    "cli": {"errors", "launch", "progress"}
    | {"cli_decisions", "cli_logs", "cli_looks", "cli_policy", "cli_report", "cli_storage"},
    "__main__": {"cli"},
    "iterppo": set(),  # the package itself, iterppo/__init__.py; everybody may import it
}

# Libraries that one room keeps for itself.
KEPT_BY = dict.fromkeys(
    ("accelerate", "datasets", "deepspeed", "peft", "transformers", "trl"), "lm"
) | {"ray": "engines"}

# Libraries that are not loaded when a module of the room is, by whatever detour.
HEAVY = {"torch", "transformers", "trl", "deepspeed"}
NOT_LOADED_BY: dict[str, set[str]] = {
    **dict.fromkeys(
        (
            "__main__",
            "assignment",
            "cli",
            "cli_decisions",
            "cli_logs",
            "cli_looks",
            "cli_options",
            "cli_policy",
            "cli_report",
            "cli_run",
            "cli_storage",
            "config",
            "config_loading",
            "errors",
            "launch",
            "pipeline",
        ),
        HEAVY | {"pyarrow"},
    ),
    **dict.fromkeys(("artifact", "contracts", "execution", "freshness", "logs", "report"), HEAVY),
    "engines": HEAVY | {"pyarrow", "ray"},
}


@dataclass(frozen=True)
class Import:
    """One import as it stands: `target` is a module of ours, or a library's first name."""

    target: str
    line: int
    at_start: bool  # executed when the module is imported: in no function, not for type checkers

    @property
    def is_ours(self) -> bool:
        return self.target.partition(".")[0] == "iterppo"


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def repository_sources() -> dict[str, str]:
    """Module name -> source text, under the names that a wheel gives them."""
    found = {}
    for folder, package in (("iterppo", "iterppo"), ("stages", "iterppo.stages")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path.read_text(encoding="utf-8")
    return found


def imports(source: str, modules: Mapping[str, object]) -> list[Import]:
    """Every import of a module's source, at whatever depth, in order."""

    def visit(node: ast.AST, at_start: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(our_or_first(alias.name), node.lineno, at_start)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(
                    our_or_first(whole if whole in modules else base), node.lineno, at_start
                )
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, False)
            for child in node.orelse:
                yield from visit(child, at_start)
        else:
            deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_start and not deferred)

    def our_or_first(name: str) -> str:
        first = name.partition(".")[0]
        return name if first in ("iterppo", "") else first

    return list(dict.fromkeys(visit(ast.parse(source), True)))


def forbidden_imports(sources: Mapping[str, str]) -> list[str]:
    """What the tables above do not allow, a line each."""
    found = []
    for module, source in sources.items():
        own = room(module)
        if own not in MAY_IMPORT:
            found.append(f"{module}: a new room; give it a line in MAY_IMPORT")
            continue
        for each in imports(source, sources):
            where = f"{module}:{each.line} imports {each.target}"
            other = room(each.target) if each.is_ours else each.target
            if each.target.startswith("."):
                found.append(f"{where}: write the whole name")
            elif other in ("stages", "schemas") and not each.is_ours:
                found.append(f"{where}: its name is iterppo.{other}")
            elif not each.is_ours:
                if KEPT_BY.get(other, own) != own:
                    found.append(f"{where}: only {KEPT_BY[other]} may")
            elif own == other == "stages":
                if each.target not in ("iterppo.stages", module):
                    found.append(f"{where}: a stage never imports another stage")
            elif other not in (MAY_IMPORT[own] | {own, "iterppo"}):
                found.append(f"{where}: {own} may not import {other}")
    return found


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> modules and libraries that are imported when it is."""
    return {
        module: {each.target for each in imports(source, sources) if each.at_start}
        for module, source in sources.items()
    }


def heavy_loads(sources: Mapping[str, str]) -> list[str]:
    """The chains by which a light room loads a library that it must not, a line each."""
    graph = import_graph(sources)
    found = []
    for start in sources:
        barred = NOT_LOADED_BY.get(room(start), set())
        chains = {start: [start]}
        queue = [start]
        for module in queue:
            packages = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}
            for target in sorted(graph.get(module, set()) | packages):
                if target in chains:
                    continue
                chains[target] = [*chains[module], target]
                queue.append(target)
        found += [" -> ".join(chain) for target, chain in chains.items() if target in barred]
    return found


def import_cycles(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other at their start, a line each."""
    graph = import_graph(sources)
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module in graph and module not in done:
            for target in sorted(graph[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def test_rooms_import_only_what_the_table_allows() -> None:
    assert forbidden_imports(repository_sources()) == []


def test_light_rooms_load_no_heavy_library() -> None:
    assert heavy_loads(repository_sources()) == []


def test_no_modules_import_each_other() -> None:
    assert import_cycles(repository_sources()) == []


def test_every_library_that_is_imported_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        re.split(r"[^\w-]", requirement)[0]
        for part in (
            project["dependencies"],
            project["optional-dependencies"]["deepspeed"],
            project["optional-dependencies"]["ray"],
        )
        for requirement in part
    }
    sources = repository_sources()
    imported = {each.target for source in sources.values() for each in imports(source, sources)}
    libraries = {target for target in imported if target.partition(".")[0] != "iterppo"}

    assert libraries - declared - sys.stdlib_module_names == set()


def test_the_checker_reads_the_whole_repository() -> None:
    sources = repository_sources()

    assert {"iterppo", "iterppo.__main__", "iterppo.errors", "iterppo.stages"} <= sources.keys()
    assert {room(module) for module in sources} <= MAY_IMPORT.keys()


@pytest.mark.parametrize(
    ("source", "module", "said"),
    [
        pytest.param(
            "import iterppo.lm.b",
            "iterppo.rl.a",
            ":1 imports iterppo.lm.b: rl may not import lm",
            id="upwards",
        ),
        pytest.param(
            "from iterppo import lm",
            "iterppo.rl.a",
            ":1 imports iterppo.lm: rl may not import lm",
            id="a room by name",
        ),
        pytest.param(
            "def f():\n from iterppo.rl import x",
            "iterppo.logs.a",
            ":2 imports iterppo.rl: logs may not import rl",
            id="sideways, in a function",
        ),
        pytest.param(
            "from ..stages import b",
            "iterppo.lm.a",
            ":1 imports ..stages: write the whole name",
            id="relative",
        ),
        pytest.param(
            "from iterppo.stages import b",
            "iterppo.stages.a",
            ":1 imports iterppo.stages.b: a stage never imports another stage",
            id="stage to stage",
        ),
        pytest.param(
            "from trl.trainer import GRPOTrainer",
            "iterppo.stages.a",
            ":1 imports trl: only lm may",
            id="a library of lm",
        ),
        pytest.param(
            "from stages import b",
            "iterppo.cli",
            ":1 imports stages: its name is iterppo.stages",
            id="by the folder's name",
        ),
        pytest.param(
            "", "iterppo.attic", ": a new room; give it a line in MAY_IMPORT", id="new room"
        ),
    ],
)
def test_the_checker_finds_a_forbidden_import(source: str, module: str, said: str) -> None:
    others = {"iterppo.lm": "", "iterppo.lm.b": "", "iterppo.artifact": "", "iterppo.stages.b": ""}

    assert forbidden_imports({module: source, **others}) == [module + said]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import torch.nn", id="itself"),
        pytest.param("class C:\n import torch", id="in a class"),
        pytest.param("import iterppo.lm.b", id="through another module"),
        pytest.param("from iterppo.contracts.base import Row", id="through a package's own file"),
    ],
)
def test_the_checker_finds_a_heavy_load(source: str) -> None:
    sources = {
        "iterppo": "",
        "iterppo.cli": source,
        "iterppo.contracts": "import pyarrow",
        "iterppo.contracts.base": "",
        "iterppo.lm.b": "import torch",
    }

    assert [chain for chain in heavy_loads(sources) if chain.startswith("iterppo.cli -> ")]


def test_an_import_in_a_function_or_for_types_loads_nothing() -> None:
    source = "if TYPE_CHECKING:\n import torch\ndef f():\n import torch"

    assert heavy_loads({"iterppo": "", "iterppo.cli": source}) == []


def test_the_checker_finds_a_cycle() -> None:
    sources = {
        "iterppo.rl.a": "from iterppo.rl import b",
        "iterppo.rl.b": "import iterppo.rl.c",
        "iterppo.rl.c": "from iterppo.rl.a import x",
    }

    assert import_cycles(sources) == [
        "iterppo.rl.a -> iterppo.rl.b -> iterppo.rl.c -> iterppo.rl.a"
    ]
