"""What is checked before processes are started, and what is told when one of them fails."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iterppo import execution, progress
from iterppo import launch as launching
from iterppo.errors import DataError, ProcessError, UsageError
from iterppo.launch import (
    Processes,
    is_launched,
    is_told_elsewhere,
    launch,
    leave_error,
    process_lives,
)
from iterppo.pipeline import STAGES

RANK_0 = {"RANK": "0", "WORLD_SIZE": "2"}


@pytest.fixture
def deepspeed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes DeepSpeed look installed, or not."""
    return lambda there: monkeypatch.setattr(launching, "_has_deepspeed", lambda: there)


@pytest.fixture
def run_instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs a shell command in the place of the launcher."""

    def use(script: str) -> None:
        monkeypatch.setattr(launching, "_launcher", lambda how: ["sh", "-c", script])

    return use


def test_one_process_needs_no_launcher() -> None:
    assert not Processes().several
    assert Processes(nproc=2).several
    assert Processes(deepspeed=Path("zero2.json")).several
    assert not is_launched()


@pytest.mark.parametrize("option", ["deepspeed", "hostfile"])
def test_a_file_that_is_not_there_is_named(
    option: str, deepspeed: Callable[[bool], None], tmp_path: Path
) -> None:
    deepspeed(True)
    with pytest.raises(UsageError, match=rf"^ppo: --{option} \S*none: no such file\. "):
        launch(["ppo"], Processes(**{option: tmp_path / "none"}))


def test_without_deepspeed_it_is_said_how_to_install_it(
    deepspeed: Callable[[bool], None], tmp_path: Path
) -> None:
    deepspeed(False)
    (tmp_path / "zero.json").write_text("{}")
    with pytest.raises(UsageError, match=r"Install it: pip install 'iterppo\[deepspeed\]'"):
        launch(["ppo"], Processes(nproc=2, deepspeed=tmp_path / "zero.json"))


def test_a_configuration_that_is_no_json_is_said_to_be_none(
    deepspeed: Callable[[bool], None], tmp_path: Path
) -> None:
    deepspeed(True)
    (tmp_path / "zero.json").write_text("{stage: 2}")
    with pytest.raises(UsageError, match=r"--deepspeed .*zero\.json: no JSON"):
        launch(["ppo"], Processes(deepspeed=tmp_path / "zero.json"))


def test_without_deepspeed_the_launcher_of_torch_starts_them(
    deepspeed: Callable[[bool], None],
) -> None:
    deepspeed(False)
    command = launching._launcher(Processes(nproc=3))

    assert "torch.distributed.run" in command
    assert "--nproc-per-node=3" in command


def test_hosts_are_deepspeeds(deepspeed: Callable[[bool], None]) -> None:
    deepspeed(True)
    command = launching._launcher(Processes(nproc=8, hostfile=Path("hosts")))

    assert "deepspeed.launcher.runner" in command
    assert {"--hostfile=hosts", "--num_gpus=8"} <= set(command)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("", [0, 1]), ("2,3,5", [2, 3]), ("7", [0, 1]), ("GPU-aa,GPU-bb", [0, 1])],
)
def test_the_gpus_that_may_be_seen_are_used(
    visible: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert launching._devices(2) == expected


def test_the_error_of_a_process_is_the_commands(
    run_instead: Callable[[str], None], tmp_path: Path
) -> None:
    content = json.dumps({"kind": "DataError", "message": "log: line 3 is none."})
    (tmp_path / "left.json").write_text(content)
    run_instead(f'cp {tmp_path}/left.json "$ITERPPO_ERRORS/1.json"; exit 3')

    with pytest.raises(DataError, match=r"^log: line 3 is none\.$"):
        launch(["ppo"], Processes(nproc=2))


def test_a_process_that_is_killed_is_an_error_that_says_what_to_do(
    run_instead: Callable[[str], None],
) -> None:
    run_instead("exit 247")
    with pytest.raises(ProcessError, match=r"killed.*Run the same command again") as raised:
        launch(["ppo"], Processes(nproc=2))
    assert raised.value.exit_status == 5


def test_what_processes_print_is_not_the_result(
    run_instead: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    run_instead("echo noise; echo $OMP_NUM_THREADS")
    launch(["ppo"], Processes(nproc=2))
    captured = capfd.readouterr()

    assert captured.out == ""
    assert "noise" in captured.err


def test_an_error_is_left_only_by_a_process_that_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = UsageError("ppo: 5 does not divide into 2.")
    assert not leave_error(error)
    for name, value in {**RANK_0, "ITERPPO_ERRORS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)

    assert is_launched()
    assert not is_told_elsewhere()
    assert leave_error(error)
    left = launching._left_behind(tmp_path)
    assert (type(left), str(left)) == (UsageError, str(error))
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]


@pytest.mark.parametrize(("loudness", "told"), [("quiet", ["--quiet"]), ("normal", [])])
def test_processes_say_as_much_as_the_command_that_started_them(
    loudness: Any, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_loudness", loudness)
    stage = STAGES["returns"]
    places = {"trajectories": Path("t"), "credit": None, "out": Path("r")}

    given = {"earlier": [Path("a"), Path("b")]}
    command = execution._command(stage, places, given, None, [], Processes(nproc=2))

    named = ["--trajectories", "t", "--out", "r", "--earlier", "a", "--earlier", "b"]
    assert command == ["returns", *named, *told, "--force"]


def test_a_process_lives_until_it_has_ended() -> None:
    child = subprocess.Popen(["true"])
    assert process_lives(child.pid)
    child.wait()
    assert not process_lives(child.pid)
    assert process_lives(os.getpid())
