"""`iterppo compare`, `plan` and `assign`, as they are typed."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iterppo.artifact import ArtifactWriter
from iterppo.config import FitQConfig
from iterppo.logs.splits import split_of
from tests.short_log import conversation, one_line

Command = Callable[..., Any]


def log(name: str, *, outcomes: int, number: int, num_open: int = 0, **fields: Any) -> str:
    """A log in which the first conversations succeed, the next fail and the last are open; a value
    that is a function is asked for each conversation."""
    lines = []
    for index in range(number + num_open):
        own = {key: value(index) if callable(value) else value for key, value in fields.items()}
        outcome = None if index >= number else int(index < outcomes)
        lines.append(conversation(f"{name}/{index}", outcome=outcome, **own))
    path = Path(f"{name}.jsonl")
    path.write_text("".join(lines))
    return str(path)


def compared(command: Command, *arguments: object) -> dict[str, Any]:
    done = command("compare", *arguments, "--json")
    assert (done.status, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout, parse_constant=pytest.fail)
    return found


def test_compare_gives_newcombes_interval_of_the_difference(folder: Path, command: Command) -> None:
    """Example (a) of Newcombe (1998): 56 of 70 against 48 of 80; a third waits for its outcomes."""
    for name, outcomes, number, num_open, version in (
        ("old", 48, 80, 0, "p0"),
        ("new", 56, 70, 0, lambda index: "p1" if index else None),
        ("open", 0, 0, 60, None),
    ):
        log(name, outcomes=outcomes, number=number, num_open=num_open, policy_version=version)
        command("ingest", f"{name}.jsonl", "--out", name)

    found = compared(command, "old", "new", "open", "--gamma", 1)

    assert [
        {key: round(v, 4) if isinstance(v, float) else v for key, v in one.items()}
        for one in (
            {key: v for key, v in arm.items() if not key.startswith(("return", "turns"))}
            for arm in found["arms"]
        )
    ] == [
        {
            "trajectories": "old",
            "policy_versions": ["p0"],
            "conversations": 80,
            "censored": 0,
            "outcomes": 48,
            "rate": 0.6,
            "rate_low": 0.4905,
            "rate_high": 0.7004,
        },
        {
            "trajectories": "new",
            "policy_versions": ["p1"],
            "conversations": 70,
            "censored": 0,
            "outcomes": 56,
            "policy_unknown": 1,
            "rate": 0.8,
            "rate_low": 0.6918,
            "rate_high": 0.877,
            "difference": 0.2,
            "difference_low": 0.0524,
            "difference_high": 0.3339,
            "p_value": 0.0081,
            "p_value_holm": 0.0081,
            "differs": True,
            "method": "newcombe",
        },
        {
            "trajectories": "open",
            "policy_versions": [],
            "conversations": 0,
            "censored": 60,
            "outcomes": 0,
            "policy_unknown": 60,
        },
    ]
    new = found["arms"][1]
    assert new["return"] == new["rate"], "without a discount a return is an outcome"
    assert new["return_difference"] == pytest.approx(0.2)
    assert new["turns_to_outcome"] == 2
    text = command("compare", "old", "new", "open").stdout
    assert text.startswith(
        "success rate with 95 % interval (Wilson); difference to the first (Newcombe)\n"
        "  p0: 0.600 [0.490, 0.700]  of 80  old\n"
        "  p1, policy unknown: 0.800 [0.692, 0.877]  of 70  +0.200 [+0.052, +0.334]  p = 0.008  "
        "new\n"
        "  policy unknown: no conversation ended  open\n"
        "  the arms differ in their shares of open conversations (p = "
    )
    assert "return\n  p0: 0.594 [" in text, "0.99 for each of 0.6"


def test_compare_takes_logs_as_they_are(folder: Path, command: Command) -> None:
    logs = [log("a", outcomes=48, number=80), log("b", outcomes=56, number=70)]
    for name in ("a", "b"):
        command("ingest", f"{name}.jsonl", "--out", name)

    of_logs, of_artifacts = compared(command, *logs), compared(command, "a", "b")

    for each in (*of_logs["arms"], *of_artifacts["arms"]):
        del each["trajectories"]
    assert of_logs == of_artifacts
    assert sorted(path.name for path in folder.iterdir()) == [
        "a",
        "a-rejects",
        "a.jsonl",
        "b",
        "b-rejects",
        "b.jsonl",
    ]


def test_compare_of_logs_that_are_no_logs_is_one_line(folder: Path, command: Command) -> None:
    Path("a.jsonl").write_text("broken\n")

    done = command("compare", "a.jsonl", "a.jsonl")

    assert (done.status, done.stdout) == (3, "")
    assert one_line(done.stderr).startswith("iterppo: ")


def test_compare_refuses_arms_whose_sizes_contradict_the_plan(
    folder: Path, command: Command
) -> None:
    logs = [log("a", outcomes=30, number=100), log("b", outcomes=20, number=50)]

    done = command("compare", *logs)

    assert (done.status, done.stdout) == (1, "")
    assert one_line(done.stderr) == (
        "iterppo: a.jsonl, b.jsonl: the arms hold 100 and 50 conversations where 1:1 was planned "
        "(p = 4e-05): conversations were assigned unevenly or lost, and no difference can be "
        "trusted. Find out why. --expected-ratio states another plan; --ignore-sample-ratio "
        "compares all the same."
    )
    assert compared(command, *logs, "--expected-ratio", "2:1")["sample_ratio"]["holds"]
    ignored = command("compare", *logs, "--ignore-sample-ratio")
    assert ignored.status == 0
    assert "100 and 50 conversations where 1:1 was planned (p = 4e-05): a difference may" in (
        ignored.stdout
    )


@pytest.mark.parametrize("ratio", ["1", "1:1:1", "1:0", "a:b", "1:inf"])
def test_compare_needs_a_ratio_of_as_many_arms(folder: Path, command: Command, ratio: str) -> None:
    done = command("compare", "a", "b", "--expected-ratio", ratio)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == (
        f"iterppo: --expected-ratio {ratio}: 2 arms need 2 numbers above 0, as 1:1."
    )


def test_compare_counts_customers_where_they_were_assigned(folder: Path, command: Command) -> None:
    """100 customers with one conversation each against 100 with three: no mismatch of customers."""
    logs = [
        log("a", outcomes=30, number=100, customer_id=lambda i: f"a{i}"),
        log("b", outcomes=90, number=300, customer_id=lambda i: f"b{i // 3}"),
    ]

    found = compared(command, *logs, "--cluster", "customer_id")

    assert command("compare", *logs).status == 1
    assert found["sample_ratio"]["counts"] == [100, 100]
    assert found["sample_ratio"]["counted"] == "clusters"
    assert [arm["clusters"] for arm in found["arms"]] == [100, 100]


def test_compare_counts_conversations_where_customers_are_in_both_arms(
    folder: Path, command: Command
) -> None:
    logs = [log(name, outcomes=30, number=100, customer_id=lambda i: f"c{i // 2}") for name in "ab"]

    found = compared(command, *logs, "--cluster", "customer_id")

    assert found["sample_ratio"]["counts"] == [100, 100]
    assert found["sample_ratio"]["counted"] == "conversations"


def test_compare_by_cluster_is_wider_where_customers_agree_with_themselves(
    folder: Path, command: Command
) -> None:
    """Ten conversations a customer with one outcome: as much as one conversation each."""
    logs = [
        log("a", outcomes=300, number=1000, customer_id=lambda i: f"a{i // 10}"),
        log("b", outcomes=400, number=1000, customer_id=lambda i: f"b{i // 10}"),
    ]

    alone, clustered = (
        compared(command, *logs),
        compared(command, *logs, "--cluster", "customer_id"),
    )

    widths = [
        found["arms"][1]["difference_high"] - found["arms"][1]["difference_low"]
        for found in (alone, clustered)
    ]
    assert widths[1] / widths[0] == pytest.approx(10**0.5, rel=0.03)
    assert [found["arms"][1]["differs"] for found in (alone, clustered)] == [True, False]
    assert clustered["arms"][1]["method"] == "cluster-robust"
    for measure in ("rate", "return"):
        lows, highs = (
            [found["arms"][0][f"{measure}_{end}"] for found in (alone, clustered)]
            for end in ("low", "high")
        )
        ratio = (highs[1] - lows[1]) / (highs[0] - lows[0])
        assert ratio == pytest.approx(10**0.5, rel=0.2)


def test_compare_says_where_an_arm_is_too_small_and_gives_no_interval_that_looks_certain(
    folder: Path, command: Command
) -> None:
    logs = [log("a", outcomes=10, number=40), log("b", outcomes=1, number=1)]

    found = compared(command, *logs, "--ignore-sample-ratio")
    text = command("compare", *logs, "--ignore-sample-ratio").stdout

    one = found["arms"][1]
    assert (one["return_low"], one["return_high"]) == (None, None)
    assert one["return_difference_low"] is None
    assert found["arms"][0]["return_low"] is not None, "of 40 there is one"
    assert (
        "  b.jsonl: too few conversations to compare with: 1, and 20 are needed. Collect more.\n"
        in text
    )
    assert "a.jsonl: too few" not in text
    assert "return\n  policy unknown: 0.247 [" in text
    assert "  policy unknown: 0.990 [unknown]  +0.742 [unknown]\n" in text
    assert "[unknown]: fewer than 20 " in text


def test_compare_by_cluster_gives_no_interval_of_few_clusters(
    folder: Path, command: Command
) -> None:
    logs = [
        log(name, outcomes=30, number=100, customer_id=lambda i, name=name: f"{name}{i // 50}")
        for name in "ab"
    ]

    arm, _ = compared(command, *logs, "--cluster", "customer_id")["arms"]

    assert (arm["rate"], arm["rate_low"], arm["rate_high"]) == (0.3, None, None)
    text = command("compare", *logs, "--cluster", "customer_id").stdout
    assert "  policy unknown: 0.300 [unknown]  of 100  a.jsonl\n" in text
    assert "a.jsonl: too few clusters to compare with: 2, and 20 are needed." in text


def test_compare_corrects_for_several_arms(folder: Path, command: Command) -> None:
    logs = [
        log("a", outcomes=200, number=1000),
        log("b", outcomes=245, number=1000),
        log("c", outcomes=238, number=1000),
    ]

    _, b, c = compared(command, *logs)["arms"]

    assert b["p_value"] < 0.025 < c["p_value"] < 0.05
    assert b["p_value_holm"] == 2 * b["p_value"]
    assert c["p_value_holm"] == max(c["p_value"], b["p_value_holm"])
    assert [arm["differs"] for arm in (b, c)] == [True, True]
    assert "(Holm = 0.0" in command("compare", *logs).stdout


def test_compare_for_daily_looks_is_more_careful(folder: Path, command: Command) -> None:
    logs = [log("a", outcomes=200, number=1000), log("b", outcomes=245, number=1000)]

    once, daily = compared(command, *logs), compared(command, *logs, "--sequential")
    expecting_more = compared(command, *logs, "--sequential", "--expect", 0.3)

    assert [found["arms"][1]["differs"] for found in (once, daily)] == [True, False]
    assert daily["arms"][1]["method"] == "always-valid"
    assert expecting_more["arms"][1]["difference_low"] < daily["arms"][1]["difference_low"]
    assert "(always valid: look as often as you like)" in (
        command("compare", *logs, "--sequential").stdout
    )
    done = command("compare", *logs, "--sequential", "--expect", 0)
    assert (done.status, done.stderr) == (
        2,
        "iterppo: --expect 0: a difference above 0, as 0.05.\n",
    )


def test_compare_refuses_what_only_daily_looks_read(folder: Path, command: Command) -> None:
    done = command("compare", "a", "b", "--expect", 0.1)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == (
        "iterppo: --expect 0.1: shapes the interval of --sequential alone. Add --sequential, or "
        "leave it away."
    )


def test_compare_adjusts_by_the_v_of_a_q(folder: Path, command: Command) -> None:
    """V knows four of five outcomes of both arms; the arms differ in who comes first to them."""

    def v(index: int, outcomes: int) -> float:
        return 0.75 if (index < outcomes) != (index % 5 == 0) else 0.25

    logs = [log("a", outcomes=200, number=500), log("b", outcomes=240, number=500)]
    rows = [
        {
            "conversation_id": f"{name}/{index}",
            "turn": 1,
            "q": 0.5,
            "q_spread": None,
            "return": 1.0,
            "weight": 1.0,
            "split": "heldout",
            "v": v(index, 220),
        }
        for name in "ab"
        for index in range(500)
    ]
    with ArtifactWriter(
        Path("q"), kind="q", stage="fit-q", config=FitQConfig(), inputs={}
    ) as writer:
        writer.write(rows)

    plain, adjusted = compared(command, *logs), compared(command, *logs, "--adjust", "q")

    assert adjusted["adjustment"]["conversations_with_covariate"] == 1000
    assert 0.2 < adjusted["adjustment"]["variance_explained"] < 0.5
    assert adjusted["arms"][1]["difference"] == pytest.approx(0.08), "V is alike in both arms"
    assert adjusted["arms"][1]["p_value"] < plain["arms"][1]["p_value"]
    assert adjusted["arms"][1]["method"] == "welch"
    assert "adjusted by V of the first state, known for 1000 conversations: " in (
        command("compare", *logs, "--adjust", "q").stdout
    )


def test_compare_shows_segments_as_exploratory(folder: Path, command: Command) -> None:
    """In one shop the outcome falls, in the other it rises."""
    logs = [
        log("a", outcomes=100, number=200, business_id=lambda i: f"shop {i // 100}"),
        log("b", outcomes=100, number=200, business_id=lambda i: f"shop {(i // 100 + 1) % 2}"),
    ]

    found = compared(command, *logs, "--by", "business_id")

    (block,) = found["segments"]
    assert {row["segment"]: row["difference"] for row in block["segments"]} == {
        "shop 0": -1.0,
        "shop 1": 1.0,
    }
    assert block["p_value_heterogeneity"] < 1e-6
    assert found["arms"][1]["difference"] == 0
    text = command("compare", *logs, "--by", "business_id").stdout
    assert "exploratory, by business_id, b.jsonl to the first: nothing is corrected for" in text
    assert "  shop 0: -1.000 [-1.000, -0.948]  of 100 and 100\n" in text


def test_compare_puts_small_segments_together(folder: Path, command: Command) -> None:
    logs = [
        log(name, outcomes=100, number=200, business_id=lambda i: f"shop {min(i, 149) // 10}")
        for name in "ab"
    ]

    (block,) = compared(command, *logs, "--by", "business_id")["segments"]

    assert block["segments"][0]["segment"] == "shop 14"
    assert len(block["segments"]) == 11
    assert block["segments"][-1]["segment"] == "(others)"
    assert sum(row["conversations"] for row in block["segments"]) == 200


def test_arms_of_one_split_of_one_log_do_not_differ(folder: Path, command: Command) -> None:
    """400 conversations, a third of them won, in arms by hash."""
    lines = {"a": "", "b": ""}
    for index in range(400):
        arm = "a" if split_of(str(index), heldout=0.5, seed=0) == "train" else "b"
        lines[arm] += conversation(str(index), outcome=int(index % 3 == 0))
    for arm, text in lines.items():
        Path(f"{arm}.jsonl").write_text(text)

    found = compared(command, "a.jsonl", "b.jsonl")

    assert not found["arms"][1]["differs"]


def test_plan_says_how_many(command: Command) -> None:
    done = command("plan", "--base-rate", 0.2, "--lift", 0.05)

    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == (
        "1094 conversations per arm\n"
        "2188 in all 2 arms: a rate of 0.25 instead of 0.2 is found with a chance of 80%\n"
        "count conversations that end; those still open when the log is cut tell nothing\n"
    )


def test_plan_of_clusters_and_arms_says_what_they_cost(command: Command) -> None:
    arguments = ["--base-rate", 0.2, "--lift", 0.05, "--cluster-size", 4, "--icc", 0.1, "--arms", 3]

    text = command("plan", *arguments).stdout
    found = json.loads(command("plan", *arguments, "--json").stdout)

    assert found == {
        "conversations_per_arm": 1724,
        "clusters_per_arm": 431,
        "arms": 3,
        "design_effect": pytest.approx(1.3),
        "alpha_per_comparison": 0.025,
    }
    assert text.startswith("1724 conversations per arm, 431 clusters of 4 (")
    assert "each arm is compared with the first at 0.025" in text


def test_a_plan_that_cannot_be_is_one_line(command: Command) -> None:
    done = command("plan", "--base-rate", 2, "--lift", 0.05)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == ("iterppo: --base-rate 2: a rate lies between 0 and 1, as 0.2.")


def test_assign_gives_an_arm_a_line(command: Command) -> None:
    done = command("assign", "customer-1", "customer-2", "--salt", "greeting", "--arms", "a,b")

    assert (done.status, done.stdout, done.stderr) == (0, "a\nb\n", "")


def test_assign_reads_keys_from_standard_input(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = SimpleNamespace(buffer=io.BytesIO("customer-1\r\ncustomer-2\nzoë\n".encode()))
    monkeypatch.setattr("sys.stdin", stream)

    done = command("assign", "-", "--salt", "greeting", "--arms", "a,b", "--json")

    assert done.status == 0
    assert [(each["key"], each["arm"]) for each in json.loads(done.stdout)][:2] == [
        ("customer-1", "a"),
        ("customer-2", "b"),
    ]


def test_an_assignment_that_cannot_be_is_one_line(command: Command) -> None:
    done = command("assign", "k", "--salt", "x", "--arms", "a,a")

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == ("iterppo: --arms a,a: a is named twice. Name each arm once.")
