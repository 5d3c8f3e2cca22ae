"""The command line: the application, and what becomes of its errors. Light imports only."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer

from iterppo import __version__
from iterppo.cli_decisions import register as register_decisions
from iterppo.cli_logs import register as register_logs
from iterppo.cli_looks import register as register_looks
from iterppo.cli_policy import register as register_policy
from iterppo.cli_report import register as register_report
from iterppo.cli_storage import register as register_storage
from iterppo.errors import IterPPOError, UsageError
from iterppo.launch import has_gpu, leave_error
from iterppo.progress import end_bars, set_loudness

app = typer.Typer(
    name="iterppo",
    help="Turn conversation logs into a better assistant, one round at a time (Iterative PPO).",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    # The DeepSpeed launcher writes --local_rank=N before the subcommand; the rank is read from
    # LOCAL_RANK.
    local_rank: Annotated[int, typer.Option("--local_rank", hidden=True)] = 0,
) -> None:
    """Options before the command."""
    if version:
        typer.echo(f"iterppo {__version__}")
        raise typer.Exit


# In the order in which `iterppo --help` lists them.
register_logs(app)
register_policy(app)
register_decisions(app)
register_looks(app)
register_report(app)
register_storage(app)


_COMMAND_LINE_ERROR: Any = next(
    one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException"
)
"""What typer raises about a command line that it cannot read; it has no name of its own there."""
INTERRUPTED = 130
"""As a shell has it: 128 and the number of the signal."""


def _usage_line(error: Any) -> str:
    """One line with a hint, in place of three; of a bare `iterppo` its help."""
    said = error.format_message().strip().replace("Value error, ", "")
    if type(error).__name__ == "NoArgsIsHelpError":
        return str(said)
    end = "" if said[-1:] in ".?)" else "."
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "iterppo"
    return f"iterppo: {said}{end} See: {path} --help"


def _told(error: IterPPOError) -> int:
    """Say what is wrong in one line, here or where several processes are looked after; the exit
    status."""
    if not leave_error(error):
        message = " ".join(str(error).split())
        typer.echo(f"iterppo: {message}", err=True)
    return error.exit_status


def _of_the_system(error: OSError) -> UsageError:
    """What the system refused, and nobody expected there: no bug, and not a gate that said no."""
    if error.filename is None or not error.strerror:
        return UsageError(str(error) or type(error).__name__)
    place = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return UsageError(
        f"{place}: {error.strerror}. Check the path, who may use it and what room is left there."
    )


def main() -> None:
    """Entry point: errors of ours become one line on standard error and an exit status."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, to their developers
    # Threads that wait must not spin for long: beside another busy process they take the time of
    # those that work. Read by OpenMP when torch is imported, hence here.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if not has_gpu():  # else DeepSpeed, where it is installed, warns of it as it is imported
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a C locale must not turn π into a traceback
    set_loudness("normal")
    try:
        status = app(prog_name="iterppo", standalone_mode=False)
        if status == INTERRUPTED:  # typer's newer versions make it a status
            raise KeyboardInterrupt
        raise SystemExit(status if isinstance(status, int) else 0)
    except IterPPOError as error:
        raise SystemExit(_told(error)) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    except OSError as error:
        raise SystemExit(_told(_of_the_system(error))) from None
    except _COMMAND_LINE_ERROR as error:
        typer.echo(_usage_line(error), err=True)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        typer.echo(
            "iterppo: stopped. Nothing half-made was left; the same command begins again, or goes "
            "on from the last checkpoint.",
            err=True,
        )
        raise SystemExit(INTERRUPTED) from None
    finally:
        end_bars()
