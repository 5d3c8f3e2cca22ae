"""Install torch into the running environment: the pinned version, the build that fits the machine.

    python tools/install_torch.py [INDEX]

PyPI's torch for Linux is the CUDA build and brings gigabytes of nvidia-* packages. So, unless an
index is named (https://download.pytorch.org/whl/cu130 …), a Linux machine without nvidia-smi takes
the `+cpu` build: from where pip looks anyway, if that has it (a mirror, a folder of wheels), else
from PyTorch's own index. torch comes alone; what it needs follows with all the rest, as
constraints.txt pins it.
"""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pinned_version(constraints: str) -> str:
    """The version of torch in the text of constraints.txt."""
    found = re.search(r"^torch==(\S+)$", constraints, re.MULTILINE)
    if found is None:
        raise ValueError("constraints.txt holds no line torch==VERSION")
    return found[1]


def attempts(version: str, *, index: str, system: str, has_gpu: bool) -> list[list[str]]:
    """What to ask pip for, in this order, until one succeeds.

    >>> attempts("2.13.0", index="", system="Darwin", has_gpu=False)
    [['torch==2.13.0']]
    """
    if index:
        # The build is named too, or pip would keep another build of the same version.
        build = index.rstrip("/").rpartition("/")[2]
        local = f"+{build}" if system == "Linux" and re.fullmatch(r"cpu|cu\d+", build) else ""
        return [[f"torch=={version}{local}", "--index-url", index]]
    if system == "Linux" and not has_gpu:
        cpu = f"torch=={version}+cpu"
        return [[cpu], [cpu, "--index-url", CPU_INDEX]]
    return [[f"torch=={version}"]]


def main() -> int:
    wanted = attempts(
        pinned_version(CONSTRAINTS.read_text(encoding="utf-8")),
        index="".join(sys.argv[1:2]),
        system=platform.system(),
        has_gpu=shutil.which("nvidia-smi") is not None,
    )
    options = ["-qq", "--disable-pip-version-check", "--no-deps"]
    for request in wanted:
        print("torch:", *request, flush=True)
        command = [sys.executable, "-m", "pip", "install", *options, *request]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return 0
    print(done.stderr.strip(), file=sys.stderr)
    print("torch: not installed. Name another index: make setup TORCH_INDEX=URL", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
