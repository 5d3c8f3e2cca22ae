"""Shell completion: one command installs it, and the shell's own function completes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and a command `iterppo` that a shell finds."""
    command = tmp_path / "bin" / "iterppo"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom iterppo.cli import main\nmain()\n")
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT)}


def shell(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_behind_one_command(tmp_path: Path, environment: dict[str, str]) -> None:
    # `; true`, or bash would become the command, which asks what shell started it.
    said = shell(environment, "bash", "-c", "iterppo --install-completion; true")
    assert "bash completion installed" in said

    complete = 'COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _iterppo_completion iterppo; echo "$COMPREPLY"'
    found = [
        shell(environment, "bash", "-c", f"source ~/.bashrc; COMP_WORDS=({words}); {complete}")
        for words in ("iterppo stat", "iterppo ppo --algo", "iterppo ppo --algorithm r")
    ]

    assert found == ["status\n", "--algorithm\n", "rloo\n"]


def test_zsh_has_a_function_and_what_it_offers(tmp_path: Path, environment: dict[str, str]) -> None:
    given = environment | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shell(given, "iterppo", "--install-completion", "zsh")

    function = tmp_path / ".zfunc" / "_iterppo"
    assert "compdef _iterppo_completion iterppo" in function.read_text()
    assert "fpath+=~/.zfunc" in (tmp_path / ".zshrc").read_text()
    asked = {"_TYPER_COMPLETE_ARGS": "iterppo stat", "_ITERPPO_COMPLETE": "complete_zsh"}
    assert shell(environment | asked, "iterppo").startswith("""_arguments '*: :(("status":""")
    if shutil.which("zsh"):
        shell(environment, "zsh", "-n", str(function))
