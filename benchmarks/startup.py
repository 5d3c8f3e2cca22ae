"""How long a user waits for `iterppo --help`, beside what Python itself takes to start.

    python -m benchmarks.startup

The fastest of `RUNS` each, in turn, so that a busy machine is not taken for a slow program. The
last line printed is a JSON object: seconds of both, and `help_over_python`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from benchmarks.machine import machine

RUNS = 15


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(prog="benchmarks.startup", description=__doc__).parse_args()
    commands = {"python": ["-c", "pass"], "help": ["-m", "iterppo", "--help"]}
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            took[name].append(time.perf_counter() - started)
    python_s, help_s = (min(took[name]) for name in commands)
    print(
        json.dumps(
            {
                "machine": machine(),
                "python_s": round(python_s, 3),
                "help_s": round(help_s, 3),
                "help_over_python": round(help_s / python_s, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
