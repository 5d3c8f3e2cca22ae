"""A stage as several processes, which a launcher starts and looks after.

    iterppo ppo … --nproc 2 --deepspeed FILE
      └─ launcher of DeepSpeed (of torch, where DeepSpeed is not installed)
           ├─ iterppo ppo …, rank 0: writes the artifact
           └─ iterppo ppo …, rank 1

Where one process ends in an error the launcher ends the others, and this one says so in a line.
Processes that lose whoever started them end by themselves: nothing is left running.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iterppo import errors
from iterppo.errors import IterPPOError, ProcessError, UsageError

_STARTED_BY = "ITERPPO_STARTED_BY"  # process id of the command that all others work for
_ERRORS = "ITERPPO_ERRORS"  # folder in which a process leaves the error that it ended in
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Processes:
    """As how many processes a stage runs, and where."""

    nproc: int = 1
    """Processes, on each host."""
    deepspeed: Path | None = None
    """DeepSpeed's configuration; None: without it."""
    hostfile: Path | None = None
    """DeepSpeed's list of hosts, a line `name slots=8` each; None: this host."""

    @property
    def several(self) -> bool:
        """Whether a launcher has to start them."""
        return self.nproc > 1 or self.deepspeed is not None or self.hostfile is not None


def is_launched() -> bool:
    """Whether this process is one that a launcher started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(command: Sequence[str], how: Processes) -> None:
    """Run `iterppo COMMAND` as several processes, to their end.

    Raises:
        UsageError: If what is needed for that is not there.
        IterPPOError: As one of the processes had it.
        ProcessError: If one of them ended without a reason that it could tell.
    """
    stage = command[0]
    _check(how, stage)
    with tempfile.TemporaryDirectory(prefix="iterppo-launch-") as folder:
        environment = {**os.environ, _STARTED_BY: str(os.getpid()), _ERRORS: folder}
        source = str(Path(errors.__file__).resolve().parent.parent)
        path = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        if how.hostfile is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // how.nproc)))
        done = subprocess.run(
            [*_launcher(how), "iterppo", *command], env=environment, stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise _left_behind(Path(folder)) or ProcessError(
                f"{stage}: one of its processes ended in an error or was killed, and the others "
                "were ended. Run the same command again: it goes on from the last checkpoint."
            )


def has_gpu() -> bool:
    """A sign of one, without loading torch to ask."""
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    return any(Path(name).exists() for name in devices) or shutil.which("nvidia-smi") is not None


def is_told_elsewhere() -> bool:
    """Whether the command that started this process tells the result."""
    return is_launched() and _STARTED_BY in os.environ


def leave_error(error: IterPPOError) -> bool:
    """Leave an error where the command that started this process finds it.

    Returns:
        Whether there is such a place; else somebody has to be told otherwise.
    """
    folder = os.environ.get(_ERRORS)
    if folder is None or not is_launched() or not Path(folder).is_dir():
        return False
    content = {"kind": type(error).__name__, "message": str(error)}
    place = Path(folder) / f"{os.environ['RANK']}.json"
    half = place.with_suffix(".half")
    half.write_text(json.dumps(content), encoding="utf-8")
    half.replace(place)
    return True


def end_with_whoever_started_this() -> None:
    """From now on, end this process when its launcher, or the command behind that, is gone.

    A launcher that is killed with signal 9 cannot end the processes that it started.
    """
    launcher, command = os.getppid(), int(os.environ.get(_STARTED_BY, "0"))

    def look() -> None:
        while os.getppid() == launcher and (not command or process_lives(command)):
            time.sleep(_LOOK_EVERY_S)
        os._exit(ProcessError.exit_status)

    threading.Thread(target=look, daemon=True).start()


def process_lives(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _check(how: Processes, stage: str) -> None:
    for option, file in (("--deepspeed", how.deepspeed), ("--hostfile", how.hostfile)):
        if file is None:
            continue
        if not file.is_file():
            raise UsageError(f"{stage}: {option} {file}: no such file. Check the path.")
        if not _has_deepspeed():
            raise UsageError(
                f"{stage}: {option} needs DeepSpeed. Install it: pip install 'iterppo[deepspeed]'"
            )
    if how.deepspeed is not None:
        try:
            json.loads(how.deepspeed.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{stage}: --deepspeed {how.deepspeed}: no JSON ({error}).") from None


def _launcher(how: Processes) -> list[str]:
    """The command that starts `-m` what follows."""
    python = [sys.executable, "-u", "-m"]
    port = f"--master_port={_free_port()}"
    plain = ["--module", "--no_local_rank", "--log_level=critical"]
    if how.hostfile is not None:
        hosts = [f"--hostfile={how.hostfile}", f"--num_gpus={how.nproc}", "--force_multi"]
        return [*python, "deepspeed.launcher.runner", *hosts, port, *plain]
    if _has_deepspeed():
        world = base64.urlsafe_b64encode(json.dumps({"localhost": _devices(how.nproc)}).encode())
        where = [f"--world_info={world.decode()}", "--master_addr=127.0.0.1", port]
        return [*python, "deepspeed.launcher.launch", *where, *plain]
    return [*python, "torch.distributed.run", "--standalone", f"--nproc-per-node={how.nproc}", "-m"]


def _devices(nproc: int) -> list[int]:
    """Of the GPUs that this process may see, as many as there are processes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(visible) >= nproc and all(name.strip().isdecimal() for name in visible):
        return [int(name) for name in visible[:nproc]]
    return list(range(nproc))


def _left_behind(folder: Path) -> IterPPOError | None:
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        kind = getattr(errors, content["kind"], None)
        if isinstance(kind, type) and issubclass(kind, IterPPOError):
            return kind(content["message"])
    return None


def _has_deepspeed() -> bool:
    return importlib.util.find_spec("deepspeed") is not None


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
