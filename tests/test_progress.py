"""What a command says while it works: on a terminal, in a pipe, quiet and verbose."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iterppo import progress as module
from iterppo.lm.policy import prepare_libraries
from iterppo.pipeline import STAGES
from iterppo.progress import end_bars, loudness, open_bar, progress, say, set_loudness, timed, warn
from tests.small_round import write_log

Command = Callable[..., Any]


class Terminal(io.StringIO):
    """A terminal; within `with` it is standard error."""

    def isatty(self) -> bool:
        return True

    def __enter__(self) -> "Terminal":
        self._before, sys.stderr = sys.stderr, self
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr = self._before


@pytest.fixture(autouse=True)
def _as_loud_as_before() -> Iterator[None]:
    yield
    set_loudness("normal")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that `time.monotonic` gives; a test moves them."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def lines_of(seconds_an_item: float, items: int, clock: list[float]) -> Iterator[int]:
    for number in progress(range(items), "fit-q", total=items, unit="steps"):
        clock[0] += seconds_an_item
        yield number


# --- in a pipe -----------------------------------------------------------------------------------


def test_in_a_pipe_there_is_a_line_now_and_then_with_what_is_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(lines_of(10.0, 6, clock)) == [0, 1, 2, 3, 4, 5]

    assert capsys.readouterr() == (
        "",
        "fit-q: 2 of 6 steps, 33 %, 40 s left\n"
        "fit-q: 4 of 6 steps, 67 %, 20 s left\n"
        "fit-q: 6 of 6 steps, 100 %, 0 s left\n",
    )


def test_short_work_says_nothing_in_a_pipe(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    list(lines_of(0.1, 100, clock))

    assert capsys.readouterr() == ("", "")


def test_a_night_of_work_is_a_few_hundred_lines(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    list(lines_of(1.0, 10 * 3600, clock))

    assert 100 < capsys.readouterr().err.count("\n") < 300


def test_where_nobody_knows_how_much_it_is_the_pace_is_told(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in progress(range(5), "ingest", unit="lines"):
        clock[0] += 4.0

    assert capsys.readouterr().err == "ingest: 4 lines, 0.25 a second\n"


# --- on a terminal -------------------------------------------------------------------------------


def test_a_terminal_shows_a_bar_with_the_time_that_is_left_and_clears_it(
    terminal: Terminal,
) -> None:
    with terminal:
        assert list(progress(range(3), "fit-q", total=3, unit="steps")) == [0, 1, 2]

    shown = terminal.getvalue()
    assert "fit-q" in shown
    assert "steps" in shown
    assert "left" in shown
    assert "\x1b[2K" in shown  # the line is wiped at the end


@pytest.mark.parametrize(("no_color", "colours"), [("", True), ("1", False)])
def test_no_color_leaves_the_bar_without_colours(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, no_color: str, colours: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)

    with terminal:
        list(progress(range(3), "fit-q", total=3))

    assert ("\x1b[3" in terminal.getvalue()) == colours


def test_work_within_work_has_a_bar_of_its_own(terminal: Terminal) -> None:
    with terminal:
        for _ in progress(range(2), "outer", total=2):
            assert list(progress(range(2), "inner", total=2)) == [0, 1]

    assert "outer" in terminal.getvalue()
    assert module._display is None


def test_work_that_ends_in_an_error_leaves_no_bar(terminal: Terminal) -> None:
    def fails() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with terminal, pytest.raises(ValueError, match="no more"):
        list(progress(fails(), "fit-q", total=2))

    assert module._display is None


def test_work_that_is_no_loop_has_a_bar_with_a_note_and_a_terminal_that_is_left_clean(
    terminal: Terminal,
) -> None:
    with terminal:
        bar = open_bar("ppo", total=4, unit="updates")
        assert bar is not None
        bar.advance(note="Q 0.250")
        end_bars()  # as the command does, whatever ended the training
        bar.close()

    assert "ppo (Q 0.250)" in terminal.getvalue()
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1


def test_there_is_no_bar_in_a_pipe() -> None:
    assert open_bar("ppo", total=4, unit="updates") is None


def test_a_dumb_terminal_gets_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    monkeypatch.setenv("TERM", "dumb")

    with terminal:
        list(lines_of(20.0, 1, clock))

    assert terminal.getvalue() == "fit-q: 1 of 1 steps, 100 %, 0 s left\n"


# --- quiet and verbose ---------------------------------------------------------------------------


def test_quiet_leaves_warnings_alone(terminal: Terminal, clock: list[float]) -> None:
    set_loudness("quiet")

    with terminal:
        assert len(list(lines_of(60.0, 3, clock))) == 3
        say("news")
        warn("the disk is full")
        with timed("all of it"):
            pass

    assert terminal.getvalue() == "the disk is full\n"


def test_verbose_tells_how_long_it_took(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_loudness", "verbose")

    with timed("fit-q: all of it"):
        clock[0] += 2.5

    assert capsys.readouterr().err == "fit-q: all of it: 2.5 s\n"


def test_of_processes_that_work_together_one_tells(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")

    assert len(list(lines_of(60.0, 3, clock))) == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_can_be_told_to_say_less_or_more(name: str, command: Command) -> None:
    text = command(name, "--help").stdout

    assert "--quiet" in text
    assert "--verbose" in text


def test_a_quiet_stage_says_nothing_and_gives_json_where_it_is_asked_to(
    tmp_path: Path, command: Command
) -> None:
    log, folder = tmp_path / "log.jsonl", tmp_path / "000"
    write_log(log)

    assert command("ingest", log, "--round", folder, "--quiet") == (0, "", "")
    assert command("ingest", log, "--round", folder, "--quiet") == (0, "", "")  # up to date
    told = command("returns", "--round", folder, "--quiet", "--json")
    assert json.loads(told.stdout)["kind"] == "returns"
    assert command("returns", "--round", folder).stdout != ""
    assert loudness() == "normal"


def test_quiet_does_not_hide_an_error(tmp_path: Path, command: Command) -> None:
    done = command("returns", "--round", tmp_path, "--quiet")

    assert (done.status, done.stdout) == (4, "")
    assert done.stderr.startswith("iterppo: ")


def test_a_verbose_stage_says_how_long_its_parts_took(
    tmp_path: Path, fresh_command: Command
) -> None:
    log = tmp_path / "log.jsonl"
    write_log(log)

    done = fresh_command("ingest", log, "--round", tmp_path / "000", "--verbose")

    assert done.status == 0
    assert "ingest: digests of the inputs: 0." in done.stderr
    assert "ingest: all of it: " in done.stderr


@pytest.mark.parametrize("loud", [True, False])
def test_the_libraries_advise_only_where_it_is_to_be_verbose(loud: bool) -> None:
    set_loudness("verbose" if loud else "normal")
    prepare_libraries()
    for name in ("transformers", "huggingface_hub"):
        assert logging.getLogger(name).isEnabledFor(logging.WARNING) == loud
        assert logging.getLogger(name).isEnabledFor(logging.ERROR)


def test_quiet_and_verbose_cannot_both_be(tmp_path: Path, command: Command) -> None:
    done = command("returns", "--round", tmp_path, "--quiet", "--verbose")

    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == "iterppo: --quiet and --verbose: choose one of them.\n"
