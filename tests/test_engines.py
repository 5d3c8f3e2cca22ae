"""`--engine`: processes of this machine and Ray make the same, and bear that a worker is killed."""

import itertools
import json
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import Manifest, open_artifact
from iterppo.config import (
    ByEvents,
    ByMarks,
    IngestConfig,
    InitConfig,
    PromptsConfig,
    ReturnsConfig,
)
from iterppo.engines import Engine, open_engine
from iterppo.engines.processes import Processes
from iterppo.errors import DataError, UsageError
from iterppo.logs import event_sorting, sources
from iterppo.logs.sources import LogFile
from iterppo.stages import ingest, init, prompts, returns
from tests.conftest import ROOT, Command
from tests.logs import generated

# --- processes -----------------------------------------------------------------------------------


def test_processes_give_results_in_the_order_of_the_tasks() -> None:
    tasks = [0.3, 0.0, 0.0]

    with open_engine("local", workers=2) as engine:
        assert not engine.is_here(len(tasks))
        assert list(engine.map_in_order(time.sleep, tasks)) == [None] * 3
        assert list(engine.map_in_order(operator.neg, range(5))) == [0, -1, -2, -3, -4]


@pytest.mark.parametrize(
    ("workers", "num_tasks"),
    [pytest.param(1, 3, id="one process"), pytest.param(4, 1, id="one task")],
)
def test_one_process_is_this_one(workers: int, num_tasks: int) -> None:
    engine = Processes(workers)

    assert engine.is_here(num_tasks)
    found = engine.map_in_order(lambda number: (number, os.getpid()), range(num_tasks))
    assert list(found) == [(number, os.getpid()) for number in range(num_tasks)]


def test_a_killed_process_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"killed, .*Run it with --workers 1"):
        list(Processes(2).map_in_order(os._exit, [1, 1, 1]))


@pytest.mark.parametrize(
    ("enough", "cores", "expected"),
    [(None, 8, 8), (1, 8, 1), (3, 8, 3), (9, 8, 8)],
)
def test_no_more_processes_than_pay_are_started_unasked(
    enough: int | None, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iterppo.engines.choice.available_cores", lambda: cores)

    for asked in (0, 5):
        with open_engine("local", workers=asked, enough=enough) as engine:
            assert isinstance(engine, Processes)
            assert engine.workers == (asked or expected)


def test_ray_is_asked_for_where_it_is_not_installed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    source = ROOT / "tests" / "data" / "artifacts" / "trajectories-v2"

    done = command(
        "returns", "--trajectories", source, "--out", tmp_path / "returns", "--engine", "ray"
    )

    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == "iterppo: --engine ray needs the extra: pip install 'iterppo[ray]'\n"
    assert list(tmp_path.iterdir()) == []


# --- Ray -----------------------------------------------------------------------------------------

on_ray = pytest.mark.slow


@pytest.fixture(scope="module")
def ray() -> Any:
    return pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[Engine]:
    """Two workers; the stages find that they are on it already."""
    with open_engine("ray", workers=2) as engine:
        assert ray.cluster_resources()["CPU"] == 2
        yield engine
    assert not ray.is_initialized()


@on_ray
def test_an_address_at_which_nobody_listens_is_refused_at_once(
    ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")

    with (
        pytest.raises(
            UsageError, match=r"^RAY_ADDRESS=127.0.0.1:1: .* cannot be joined \(.*refused"
        ),
        open_engine("ray", workers=2),
    ):
        pass


@on_ray
def test_ray_gives_results_in_the_order_of_the_tasks(cluster: Engine) -> None:
    def wait(task: float) -> tuple[float, int]:
        time.sleep(task)
        return task, os.getpid()

    found = list(cluster.map_in_order(wait, [0.5, 0.0, 0.1, 0.0]))

    assert [task for task, _ in found] == [0.5, 0.0, 0.1, 0.0]
    assert os.getpid() not in {process for _, process in found}
    assert list(cluster.map_in_order(wait, [])) == []


@on_ray
def test_an_error_of_a_task_is_raised_as_it_is(cluster: Engine) -> None:
    def fail(task: int) -> int:
        if task == 2:
            raise DataError("log.jsonl: line 7")
        return task

    found = cluster.map_in_order(fail, range(4))

    assert list(itertools.islice(found, 2)) == [0, 1]
    with pytest.raises(DataError, match=r"^log.jsonl: line 7$"):
        next(found)


@on_ray
def test_a_mistake_of_ours_keeps_its_traceback(ray: Any, cluster: Engine) -> None:
    def fail(task: int) -> int:
        return {}[task]

    with pytest.raises(ray.exceptions.RayTaskError, match=r"in fail\n.*\n.*\nKeyError: 17"):
        list(cluster.map_in_order(fail, [17]))


@on_ray
def test_a_task_that_kills_every_worker_is_given_up(cluster: Engine) -> None:
    with pytest.raises(UsageError, match="its worker was killed 4 times"):
        list(cluster.map_in_order(os._exit, [1]))


# --- stages --------------------------------------------------------------------------------------

CONVERSATIONS = generated.many_conversations(60, seed=4)
AGAIN = generated.many_conversations(80, seed=4)[50:]
"""Ten conversations of the others, with another content, and twenty new ones."""
BOOKINGS = ByEvents(
    by="events", file="bookings.jsonl", join="customer_id", time_column="time", window="2h"
)
BOOKED: dict[str, Any] = {
    "outcomes": [ByMarks(by="marks"), BOOKINGS],
    "cutoff": "2026-07-05T00:00:00Z",
    "idle": "24h",
}


def write_lines(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"\n".join(lines) + b"\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs that make many tasks, in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "PIECE_BYTES", 8_000)
    monkeypatch.setattr(event_sorting, "SHARE_BYTES", 30_000)
    lines = generated.as_lines(CONVERSATIONS)
    write_lines(tmp_path / "a.jsonl", [*lines, b"{", *lines[3:20:4]])
    events = generated.as_event_rows(AGAIN)
    broken = [{**events[0], "role": "nobody"}, *events[:9], {**events[1], "time": None}]
    write_lines(tmp_path / "b.jsonl", [json.dumps(row).encode() for row in [*events, *broken]])
    bookings = [
        {"customer_id": one["customer_id"], "time": one["messages"][-1]["time"]}
        for one in [*CONVERSATIONS, *AGAIN]
        if one["messages"] and len(one["messages"]) % 2
    ]
    write_lines(tmp_path / "bookings.jsonl", [json.dumps(row).encode() for row in bookings])
    return tmp_path


def ingested(
    files: list[str], engine: Any, *, workers: int = 1, **settings: Any
) -> tuple[Manifest, Manifest]:
    """Trajectories and rejects."""
    config = IngestConfig(max_reject_rate=1.0, **settings)
    out, rejects = Path(engine), Path(f"{engine}-rejects")
    logs = [LogFile(name, name) for name in files]
    ingest.run(config, logs=logs, out=out, rejects=rejects, workers=workers, engine=engine)
    return open_artifact(out).manifest, open_artifact(rejects).manifest


def the_same(*manifests: Manifest) -> bool:
    """Whether they say the same of the same bytes."""
    said = [(one.digest, one.counts, one.metrics, one.fingerprint) for one in manifests]
    return all(each == said[0] for each in said)


@pytest.mark.slow
def test_an_event_log_makes_the_same_in_whatever_pieces_and_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        return list(open_artifact(folder / name).rows())

    pieces = ingested(["b.jsonl"], "local")
    rejects = rows("local-rejects")
    processes = ingested(["b.jsonl"], "local", workers=2)
    monkeypatch.setattr(sources, "PIECE_BYTES", 10**9)
    whole = ingested(["b.jsonl"], "local")

    assert the_same(pieces[0], processes[0])
    assert the_same(pieces[1], processes[1])
    assert the_same(pieces[0], whole[0])
    assert rows("local-rejects") == rejects
    assert {row["reason"].partition(":")[0] for row in rejects} == {"role", "time"}
    lines = (folder / "b.jsonl").read_text(encoding="utf-8").splitlines()
    assert [row["raw"] for row in rejects if "role" in row["reason"]] == [
        lines[row["line"] - 1] for row in rejects if "role" in row["reason"]
    ]


@on_ray
@pytest.mark.parametrize(
    ("files", "settings", "num_parts"),
    [
        pytest.param(["a.jsonl"], {}, 7, id="conversations"),
        pytest.param(["b.jsonl"], BOOKED, 2, id="event logs, outcomes of customers"),
    ],
)
def test_ingest_makes_on_ray_what_a_process_makes_alone(
    cluster: Engine, folder: Path, files: list[str], settings: dict[str, Any], num_parts: int
) -> None:
    alone = ingested(files, "local", **settings)

    on_cluster = ingested(files, "ray", **settings)

    assert the_same(alone[0], on_cluster[0])
    assert the_same(alone[1], on_cluster[1])
    assert len(alone[0].files) >= num_parts
    counts = alone[0].counts
    assert counts["rejects"] > 0
    assert counts["copies"] > 0
    assert counts["outcomes"] > 0
    assert sorted(path.name for path in folder.glob(".*")) == []


@pytest.fixture
def kill_once(tmp_path: Path) -> Callable[[str], None]:
    """Kills the process that calls it, for each name only once."""
    folder = tmp_path / "killed"
    folder.mkdir()

    def kill(name: str) -> None:
        try:
            (folder / name).open("x").close()
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return kill


@on_ray
def test_a_worker_that_is_killed_changes_nothing_of_an_ingest(
    cluster: Engine,
    folder: Path,
    kill_once: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = ["a.jsonl", "b.jsonl"]
    alone = ingested(files, "local", **BOOKED)
    read, spill = ingest._read, ingest.spill_events

    def read_and_die(config: Any, tables: Any, show: bool, task: Any, events: Any = None) -> Any:
        if task.pieces:
            task.part.write_bytes(b"half a part")
            kill_once("a piece in the middle")
        found = read(config, tables, show, task, events)
        if task.share:
            kill_once("a share at its end")
        return found

    def spill_and_die(config: Any, show: bool, task: Any) -> Any:
        found = spill(config, show, task)
        kill_once("events at their end")
        return found

    monkeypatch.setattr(ingest, "_read", read_and_die)
    monkeypatch.setattr(ingest, "spill_events", spill_and_die)
    on_cluster = ingested(files, "ray", **BOOKED)

    assert sorted(path.name for path in (folder / "killed").iterdir()) == [
        "a piece in the middle",
        "a share at its end",
        "events at their end",
    ]
    assert the_same(alone[0], on_cluster[0])
    assert the_same(alone[1], on_cluster[1])


@on_ray
def test_returns_and_prompts_on_ray_are_those_of_a_process_alone(
    cluster: Engine, folder: Path
) -> None:
    ingested(["a.jsonl", "b.jsonl"], "local")
    trajectories = Path("local")
    init.run(
        InitConfig(hidden_size=16, num_layers=1, num_heads=1, vocab_size=300, max_steps=1),
        trajectories=trajectories,
        out=Path("policy"),
    )
    made: dict[str, list[Manifest]] = {"returns": [], "prompts": []}
    for engine in ("local", "ray"):
        of_engine: Any = {"trajectories": trajectories, "workers": 1, "engine": engine}
        out = Path(f"{engine}-returns")
        made["returns"].append(returns.run(ReturnsConfig(), out=out, **of_engine))
        out, policy = Path(f"{engine}-prompts"), Path("policy")
        config = PromptsConfig(max_prompts=200)
        made["prompts"].append(prompts.run(config, policy=policy, out=out, **of_engine))

    num_parts = len(open_artifact(trajectories).parts())
    for manifests in made.values():
        assert the_same(*manifests)
        assert len(manifests[0].files) == num_parts > 6
        assert manifests[0].rows > 100


@on_ray
def test_a_command_joins_the_cluster_at_ray_address_and_says_nothing_of_it(
    ray: Any, cluster: Engine, folder: Path
) -> None:
    alone = ingested(["a.jsonl"], "local")[0]
    address = ray.get_runtime_context().gcs_address
    os.chdir("/")

    done = subprocess.run(
        [
            *(sys.executable, "-m", "iterppo", "returns", "--engine", "ray", "--json"),
            *("--trajectories", "local", "--out", "returns"),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rows"] == alone.rows
    assert ray.is_initialized()
