"""Two Q-functions on the same turns: `iterppo converged`, from artifacts to exit status."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iterppo.artifact import ArtifactWriter, InputRecord, open_artifact
from iterppo.config import FitQConfig, IngestConfig, InitConfig
from iterppo.lm import policy as policies
from iterppo.lm.q_change import q_change
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.rendering import decisions
from iterppo.logs.probe import probe_turns
from iterppo.logs.sources import LogFile
from iterppo.stages import ingest

MakePolicy = Callable[..., Path]
Command = Callable[..., Any]

WORDS = ("yes", "no", "maybe later", "soon")


def write_trajectories(folder: Path, *, conversations: int = 60, heldout: float = 0.5) -> Path:
    lines = []
    for n in range(conversations):
        messages = [
            {"role": "customer", "content": f"Hello {n % 3}"},
            {"role": "business", "content": WORDS[n % 4]},
            {"role": "customer", "content": "And then? " * (1 + 4 * (n % 5 == 0))},
            {"role": "business", "content": WORDS[n // 4 % 4]},
        ]
        lines.append({"conversation_id": f"c{n}", "messages": messages, "outcome": n % 2})
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    ingest.run(
        IngestConfig(heldout=heldout),
        logs=[LogFile(str(log), str(log))],
        out=folder / "trajectories",
        rejects=folder / "rejects",
    )
    return folder / "trajectories"


def write_policy(folder: Path, source: Path, *, system_prompt: str) -> Path:
    loaded = policies.load_policy(source)
    settings = loaded.settings.model_dump(exclude={"version"})
    with ArtifactWriter(
        folder, kind="policy", stage="init", config=InitConfig(), inputs={}
    ) as writer:
        policies.save_policy(
            writer.folder / "model",
            model=loaded.model,
            renderer=loaded.renderer,
            settings=settings | {"system_prompt": system_prompt},
        )
    return folder


def write_q(
    folder: Path, *, trajectories: Path, policy: Path, seed: int, max_tokens: int = 128
) -> Path:
    """A Q whose head is random: what it says differs from turn to turn, and from seed to seed."""
    inputs: dict[str, InputRecord] = {
        "trajectories": open_artifact(trajectories).record(),
        "policy": open_artifact(policy).record(),
    }
    q = QFunction.from_policy(
        policies.model_folder(policy), QSettings(loss="bce", max_tokens=max_tokens)
    )
    torch.manual_seed(seed)
    torch.nn.init.normal_(q.heads.members.weight, std=0.2)
    with ArtifactWriter(
        folder, kind="q", stage="fit-q", config=FitQConfig(), inputs=inputs
    ) as writer:
        q.save(writer.folder / "model")
    return folder


@pytest.fixture
def runs(tmp_path: Path, make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two rounds in the current folder, as far as the comparison reads them."""
    monkeypatch.chdir(tmp_path)
    trajectories = write_trajectories(Path("000"))
    policy = write_policy(Path("000/init"), make_policy(steps=0), system_prompt="Be brief.")
    write_q(Path("000/q"), trajectories=trajectories, policy=policy, seed=1)
    write_q(Path("001/q"), trajectories=trajectories, policy=policy, seed=2)
    return tmp_path


# --- the numbers ---


def test_every_turn_is_scored_as_by_itself_behind_the_prompt_of_its_policy(
    runs: Path, make_policy: MakePolicy
) -> None:
    other = write_policy(Path("other"), make_policy(steps=0), system_prompt="Say what it costs.")
    trajectories = Path("000/trajectories")
    write_q(Path("002/q"), trajectories=trajectories, policy=other, seed=1)
    conversations = probe_turns(open_artifact(trajectories), turns=9)
    previous, this = open_artifact(Path("000/q")), open_artifact(Path("002/q"))
    found = q_change(previous, this, conversations)

    for artifact, prompt, values in (
        (previous, "Be brief.", found.previous),
        (this, "Say what it costs.", found.this),
    ):
        q = QFunction.load(artifact.path / "model")
        turns = [t for rows in conversations for t in decisions(rows, system_prompt=prompt)]
        alone = q([t.state for t in turns], [t.action or "" for t in turns])
        assert values == pytest.approx(alone, abs=1e-5)
    assert found.conversation_ids == [row["conversation_id"] for c in conversations for row in c]
    assert len(found.previous) == 9
    assert max(abs(a - b) for a, b in zip(found.previous, found.this, strict=True)) > 1e-3


def test_turns_that_one_cannot_score_are_counted(runs: Path) -> None:
    trajectories, policy = Path("000/trajectories"), Path("000/init")
    write_q(Path("short/q"), trajectories=trajectories, policy=policy, seed=2, max_tokens=40)
    conversations = probe_turns(open_artifact(trajectories), turns=1000)
    total = sum(len(rows) for rows in conversations)
    whole, short = open_artifact(Path("000/q")), open_artifact(Path("short/q"))
    there, back = (q_change(*pair, conversations) for pair in ((whole, short), (short, whole)))

    assert 0 < there.num_only_previous < total
    assert len(there.previous) == len(there.this) == total - there.num_only_previous
    assert (there.num_only_this, there.num_neither) == (0, 0)
    assert (back.num_only_previous, back.num_only_this) == (0, there.num_only_previous)
    assert back.this == there.previous
    again = q_change(short, short, conversations)
    assert (again.num_neither, len(again.this)) == (there.num_only_previous, len(back.this))


# --- the command ---


def test_the_same_q_has_converged(runs: Path, command: Command) -> None:
    shutil.copytree("000/q", "same/q")
    done = command("converged", "000/q", "same/q", "--json")
    found = json.loads(done.stdout)

    assert (done.status, done.stderr) == (0, "")
    assert found["converged"] is True
    assert (found["rmse"], found["rmse_high"], found["max_norm"], found["mean_change"]) == (0,) * 4
    assert found["rank_correlation"] == pytest.approx(1)
    assert (found["num_turns"], found["probe"]) == (
        2 * found["num_conversations"],
        "000/trajectories",
    )
    assert 20 <= found["num_conversations"] <= 40


def test_another_q_has_not_and_one_line_says_so(runs: Path, command: Command) -> None:
    told = json.loads(command("converged", "000/q", "001/q", "--json").stdout)
    done = command("converged", "000/q", "001/q")

    assert done.status == 1
    assert told["converged"] is False
    assert 0.02 < told["rmse_low"] < told["rmse"] < told["rmse_high"] < told["max_norm"]
    decision = f"not converged, {told['rmse_high']:.4f} is above the tolerance 0.02"
    assert done.stderr == f"iterppo: 001/q: {decision} (RMSE). Go on with another round.\n"

    def shown(name: str, sign: str = "") -> str:
        value, low, high = (f"{told[f'{name}{end}']:{sign}.4f}" for end in ("", "_low", "_high"))
        return f"{value} [{low}, {high}]"

    assert done.stdout.splitlines() == [
        "change of Q from 000/q to 001/q, in discounted outcomes, with 95 % intervals by "
        "conversation",
        f"  RMSE              {shown('rmse')}  decides: {decision}",
        f"  max-norm          {shown('max_norm')}",
        f"  mean change       {shown('mean_change', '+')}",
        f"  rank correlation  {shown('rank_correlation')}",
        f"  on {told['num_turns']} held-out turns of {told['num_conversations']} conversations of "
        "000/trajectories",
    ]


def test_the_tolerance_and_the_number_of_turns_are_what_was_asked(
    runs: Path, command: Command
) -> None:
    asked = ("converged", "000/q", "001/q", "--turns", 7, "--json")
    (narrow, wide) = (command(*asked, "--tolerance", tolerance) for tolerance in (0.0, 1.0))

    assert (narrow.status, wide.status) == (1, 0)
    told = json.loads(wide.stdout)
    assert (told["num_turns"], told["tolerance"]) == (7, 1.0)
    assert math.isfinite(told["rmse"])
    assert "fewer than 20 conversations" in command(*asked[:-1]).stdout


def test_a_probe_can_be_named(runs: Path, command: Command) -> None:
    write_trajectories(Path("other"), conversations=30)
    done = command("converged", "000/q", "000/q", "--probe", "other/trajectories", "--json")

    assert done.status == 0
    assert json.loads(done.stdout)["probe"] == "other/trajectories"


def test_a_q_that_says_the_same_everywhere_is_called_constant(runs: Path, command: Command) -> None:
    q = QFunction.load(Path("001/q/model"))
    torch.nn.init.zeros_(q.heads.members.weight)
    with ArtifactWriter(
        Path("flat/q"),
        kind="q",
        stage="fit-q",
        config=FitQConfig(),
        inputs=open_artifact(Path("001/q")).manifest.inputs,
    ) as writer:
        q.save(writer.folder / "model")
    done = command("converged", "flat/q", "flat/q")

    assert done.status == 0
    assert "  rank correlation  unknown\n" in done.stdout
    assert done.stdout.endswith("  one of the two is constant on these turns: it ranks nothing\n")
    assert (
        json.loads(command("converged", "flat/q", "000/q", "--json").stdout)["rank_correlation"]
        is None
    )


def test_turns_left_out_stand_below_the_table(runs: Path, command: Command) -> None:
    write_q(
        Path("short/q"),
        trajectories=Path("000/trajectories"),
        policy=Path("000/init"),
        seed=1,
        max_tokens=40,
    )
    asked = ("converged", "000/q", "short/q", "--tolerance", 1)
    number = json.loads(command(*asked, "--json").stdout)["num_turns_only_previous"]

    assert f"  left out: {number} turns that only 000/q can score\n" in command(*asked).stdout


def test_a_run_that_was_moved_is_compared_as_it_was(runs: Path, command: Command) -> None:
    asked = ("converged", "000/q", "001/q", "--tolerance", 1, "--json")
    before = json.loads(command(*asked).stdout)
    Path("moved").mkdir()
    for name in ("000", "001"):
        Path(name).rename(f"moved/{name}")
    done = command("converged", "moved/000/q", "moved/001/q", "--tolerance", 1, "--json")
    after = json.loads(done.stdout)

    assert done.stderr == ""
    assert after.pop("probe") == str(Path("moved/000/trajectories").resolve())
    assert before.pop("probe") == "000/trajectories"
    for name in ("previous", "this"):
        assert after.pop(name) == f"moved/{before.pop(name)}"
    assert after == before


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        pytest.param(
            "000/trajectories",
            "000/trajectories: not found, the trajectories that 000/q was fitted on. Name others "
            "with --probe.",
            id="the probe set",
        ),
        pytest.param(
            "000/init",
            "000/init: not found, the policy that 000/q was fitted for, and only it knows the "
            "system prompt of Q's states. Put it back, or fit Q again.",
            id="the policy",
        ),
        pytest.param(
            "001/q",
            "001/q: not found, expected an artifact of kind q. Run the stage that makes it first.",
            id="a Q",
        ),
    ],
)
def test_what_is_gone_is_one_line_and_status_4(
    gone: str, said: str, runs: Path, command: Command
) -> None:
    shutil.rmtree(gone)
    done = command("converged", "000/q", "001/q")

    assert (done.status, done.stdout, done.stderr) == (4, "", f"iterppo: {said}\n")


def test_another_policy_in_the_place_of_qs_is_refused(
    runs: Path, command: Command, make_policy: MakePolicy
) -> None:
    shutil.rmtree("000/init")
    write_policy(Path("000/init"), make_policy(steps=0), system_prompt="Be long.")
    done = command("converged", "000/q", "001/q")

    assert done.status == 4
    assert done.stderr.startswith("iterppo: 000/init: changed since 000/q was fitted for it")
    assert done.stderr.count("\n") == 1


def test_a_q_that_does_not_say_what_it_was_made_from_is_refused(
    runs: Path, command: Command
) -> None:
    with ArtifactWriter(
        Path("bare/q"), kind="q", stage="fit-q", config=FitQConfig(), inputs={}
    ) as writer:
        QFunction.load(Path("000/q/model")).save(writer.folder / "model")
    first, second = (
        command("converged", "bare/q", "000/q", *probe)
        for probe in ((), ("--probe", "000/trajectories"))
    )

    assert (first.status, second.status) == (4, 4)
    assert "does not name the trajectories that it was fitted on" in first.stderr
    assert "does not name the policy that it was fitted for" in second.stderr


def test_contexts_that_share_no_turn_are_an_error_in_one_line(runs: Path, command: Command) -> None:
    write_q(
        Path("tiny/q"),
        trajectories=Path("000/trajectories"),
        policy=Path("000/init"),
        seed=1,
        max_tokens=5,
    )
    done = command("converged", "000/q", "tiny/q")

    assert (done.status, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "fit-q.max_tokens" in done.stderr
