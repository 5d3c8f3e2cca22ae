"""The worked example of docs/environments.md: with a stand-in, and with TextArena where it is
installed."""

import importlib.util
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


class Game:
    """`GuessTheNumber-v0-raw`, as far as the example uses it: new messages once, then no more."""

    def reset(self, *, num_players: int, seed: int) -> None:
        assert num_players == 1
        self.number, self.left, self.won = random.Random(seed).randint(1, 20), 10, False
        self.news: list[tuple[int, str, str]] = [(-1, "Guess the number.", "PROMPT")]

    def get_observation(self) -> tuple[int, list[tuple[int, str, str]]]:
        news, self.news = self.news, []
        return 0, news

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        guess = int(re.findall(r"\[(\d+)\]", action)[0])
        self.left -= 1
        self.won = guess == self.number
        self.news.append((0, action, "PLAYER_ACTION"))
        hint = "higher" if guess < self.number else "lower"
        self.news.append((-1, "Right." if self.won else f"It is {hint}.", "GAME_MESSAGE"))
        return self.won or self.left == 0, {}

    def close(self) -> tuple[dict[int, float], dict[str, Any]]:
        return {0: 1 if self.won else 0.8}, {}


@pytest.fixture(params=["a stand-in", "TextArena"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The current folder, with the example in it."""
    if request.param == "TextArena" and importlib.util.find_spec("textarena") is None:
        pytest.skip("textarena is not installed: pip install 'iterppo[textarena]'")
    if request.param == "a stand-in":
        library: Any = ModuleType("textarena")
        library.GAME_ID = -1
        library.make = lambda name: {"GuessTheNumber-v0-raw": Game}[name]()
        monkeypatch.setitem(sys.modules, "textarena", library)
    text = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python[^\n]*\n(.*?)```", text, re.DOTALL)
    (tmp_path / "guessing.py").write_text(example, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    state = random.getstate()  # which TextArena seeds
    yield tmp_path
    random.setstate(state)
    sys.modules.pop("guessing", None)


def test_the_example_makes_a_log_that_ingest_reads(
    folder: Path, command: Callable[..., Any]
) -> None:
    settings = ("--set", "rollout.conversations=30", "--set", "rollout.parallel=7")
    done = command(
        *("rollout", "--policy", "scripted", "--env", "guessing:Game", "--out", "log", *settings)
    )
    assert done.status == 0, done.stderr
    assert command("ingest", "log", "--round", "runs/guess/000").status == 0

    lines = [json.loads(line) for line in Path("log/log.jsonl").read_text("utf-8").splitlines()]
    for line in lines:
        assert not line["unfinished"]
        said = [m["content"] for m in line["messages"] if m["role"] == "customer"]
        assert said.count(said[0]) == 1  # what is new, and no more
        assert not any("I guess" in text for text in said)
    won = [line for line in lines if line["outcome"]]
    assert 0 < len(won) < len(lines)  # random guesses, ten of twenty numbers
