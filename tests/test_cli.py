"""The command line: its commands, their help, and what an import of it loads."""

import os
import subprocess
import sys
from typing import Any

import pytest
import typer

import iterppo
from iterppo.cli import app
from iterppo.pipeline import STAGES
from tests.conftest import ROOT, Command

LOOKS = {
    *(
        "assign",
        "compare",
        "converged",
        "inspect",
        "plan",
        "pull",
        "push",
        "report",
        "rounds",
        "schema",
        "status",
    ),
}
"""Commands that make no artifact."""

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_stage_is_a_command_and_every_command_is_known() -> None:
    assert set(COMMANDS) == set(STAGES) | LOOKS


def test_every_stage_is_a_module_and_every_module_a_stage() -> None:
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}

    assert modules == {name.replace("-", "_") for name in STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_the_help_of_a_stage_is_that_of_the_table(name: str) -> None:
    assert COMMANDS[name].help == STAGES[name].help


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_its_inputs_and_what_every_stage_takes(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}

    assert {"--round", "--config", "--set", "--force", "--json"} <= options
    assert {f"--{slot.name}" for slot in (*STAGES[name].reads, *STAGES[name].writes)} <= options


@pytest.mark.parametrize("name", [None, *COMMANDS], ids=lambda name: name or "iterppo")
def test_every_command_has_help(name: str | None, command: Command) -> None:
    done = command(*([name] if name else []), "--help")

    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    shown = (
        {parameter.opts[0] for parameter in COMMANDS[name].params if parameter.opts[0][0] == "-"}
        if name
        else COMMANDS
    )
    assert [one for one in shown if one not in done.stdout] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_says_what_it_is(name: str) -> None:
    assert [one.name for one in COMMANDS[name].params if not getattr(one, "help", None)] == []


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version") == (0, f"iterppo {iterppo.__version__}\n", "")


# --- speed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "barred"),
    [
        pytest.param("import iterppo.cli", {"pyarrow", "numpy"}, id="the command line"),
        pytest.param(
            "import contextlib, io, iterppo.cli\n"
            "with contextlib.redirect_stdout(io.StringIO()):\n"
            "    iterppo.cli.app(['--help'], standalone_mode=False)\n",
            {"pyarrow", "numpy"},
            id="the help",
        ),
        pytest.param(
            "import iterppo.pipeline, iterppo.config", {"pyarrow", "numpy"}, id="the tables"
        ),
        pytest.param(
            "import iterppo.execution, iterppo.artifact", {"numpy"}, id="what runs a stage"
        ),
        pytest.param(
            "import iterppo.stages.ingest, iterppo.stages.returns", {"numpy"}, id="the light stages"
        ),
        pytest.param(
            "from iterppo.pipeline import STAGES; [stage.run for stage in STAGES.values()]",
            set(),
            id="every stage",
        ),
    ],
)
def test_an_import_loads_no_more_than_it_needs(code: str, barred: set[str]) -> None:
    heavy = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", *barred}

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}\nimport sys; print(*sorted({heavy!r} & sys.modules.keys()))",
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "\n"
