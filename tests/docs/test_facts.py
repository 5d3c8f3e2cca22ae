"""What pages say of files of the repository is what stands in them."""

import json
import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import iterppo
from iterppo.config import InitConfig, PPOConfig
from iterppo.config_loading import load_config
from iterppo.lm.rendering import decisions
from iterppo.lm.trl_arguments import shares
from iterppo.pipeline import STAGES, sections
from tests.docs.blocks import ROOT, blocks_of, pages, text_of

PACKAGE = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("iterppo", "stages")
    for path in sorted((ROOT / folder).rglob("*.py"))
)
CONFIGURATIONS = sorted(
    path.name for path in (ROOT / "configs").glob("*.toml") if path.name != "personas.toml"
)
DECISIONS = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("0*.md"))


def test_every_number_that_troubleshooting_sends_people_to_has_that_name() -> None:
    page = text_of("docs/troubleshooting.md")
    named = set(re.findall(r"`(\w+)` in `[\w/.]+`", page))

    assert len(named) > 15
    assert {
        name for name in named if not re.search(rf'\b{name}\b["=\]]|"{name}"', PACKAGE)
    } == set()


@pytest.mark.parametrize("page", pages())
def test_rows_are_read_from_the_parts_since_other_parquet_may_lie_beside_them(page: str) -> None:
    """The training log beside a policy's samples has other columns: DuckDB would refuse the two."""
    assert re.findall(r"\S*/\*\.parquet", text_of(page)) == []


def test_the_sql_of_troubleshooting_runs_on_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its artifact has a training log beside the samples."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/mine/000/policy")
    folder.mkdir(parents=True)
    samples = {"step": [1], "completion": [""], "q": [0.5]}
    log = {name: [0.5] for name in ("q", "kl_per_completion", "entropy", "truncated", "abstained")}
    pq.write_table(pa.table(samples), folder / "part-00000.parquet")
    pq.write_table(pa.table({"step": [1], **log}), folder / "training_log.parquet")

    queries = [b.text for b in blocks_of(text_of("docs/troubleshooting.md")) if b.language == "sql"]

    assert [len(duckdb.sql(query).fetchall()) for query in queries] == [1, 1]


def test_the_gate_in_a_script_asks_what_experiments_and_the_makefile_ask() -> None:
    """Each stage with the round's places that it names; without `fqe` nothing is said by Q."""

    def asked(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
        commands = re.findall(r"iterppo\)? +(actions|fit-q|evaluate)(.* --.*)", text, re.I)
        return [
            (stage, re.findall(r"--(policy|actions|out) +\S+/(\w+)", rest))
            for stage, rest in commands
        ]

    script = next(
        b.text for b in blocks_of(text_of("docs/automation.md")) if "evaluate --gate" in b.text
    )
    page = blocks_of(text_of("docs/experiments.md"))[0].text
    gate = text_of("Makefile").partition('if [ -n "$(GATE)" ]')[2].partition("|| status")[0]

    assert asked(script)[1:] == asked(page) == asked(gate)
    assert len(asked(page)) == 3


def test_make_has_one_status_for_all_failures_and_automation_says_so(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("round:\n\texit 4\n", encoding="utf-8")

    done = subprocess.run(["make", "round"], cwd=tmp_path, capture_output=True, check=False)

    assert f"`make round` ends with {done.returncode} whichever" in text_of("docs/automation.md")
    assert b"Error 4" in done.stderr


def test_the_request_that_serving_shows_is_what_the_policy_was_trained_on() -> None:
    blocks = blocks_of(text_of("docs/serving.md"))
    request = next(json.loads(b.text) for b in blocks if b.language == "json" and not b.title)
    turns = [
        {
            "customer": "Do you do bathrooms?",
            "suggestion": "Yes! Shall we visit on Tuesday?",
            "sent": "Yes! May we visit on Tuesday?",
            "adoption": "edited",
        },
        {"customer": "Tuesday is fine.", "suggestion": None, "sent": None, "adoption": "not_shown"},
    ]
    first_policy = InitConfig()

    *_, last = decisions(turns, system_prompt=first_policy.system_prompt)
    assert request["messages"] == last.state
    assert request["max_tokens"] == first_policy.max_new_tokens
    assert request["temperature"] == first_policy.temperature


def test_the_table_of_methods_is_the_recorded_benchmark() -> None:
    results = ROOT / "benchmarks" / "results" / "known_truth.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    on_policy, explored = found["on_policy"], found["exploratory"]
    text = text_of("docs/choosing.md")
    cells = {
        row: re.findall(rf"^\| {row} \|(.*)\|$", text, re.M)[0].split("|")
        for row in ("RMSE", "ranking")
    }

    methods = ("mc", "td-lambda", "sarsa", "lstd", "lstd-linear")
    assert [cell.strip() for cell in cells["RMSE"]] == [
        f"{on_policy[f'{method}_rmse']:.3f}" for method in ("constant", *methods)
    ]
    assert [cell.strip() for cell in cells["ranking"]] == [
        "",
        *(f"{on_policy[f'{method}_ranking']:.2f}" for method in methods),
    ]
    best = [max(methods, key=lambda m, run=run: run[m]["ranking"]) for run in on_policy["seeds"]]
    assert set(best) == {"lstd"}, "in every seed"
    assert (len(best), on_policy["conversations"]) == (3, 1600)
    words = " ".join(text.split())
    told = (
        f"{name} {explored[key]:.3f}"
        for name, key in (
            ("a constant had", "constant_rmse"),
            ("`mc`", "mc_rmse"),
            ("`fqe`, which is made for it,", "fqe_rmse"),
        )
    )
    assert ", ".join(told).replace("`fqe`", "and `fqe`") in words
    assert (len(explored["seeds"]), explored["conversations"]) == (5, 1600)


def test_the_table_of_the_loop_is_the_recorded_benchmark() -> None:
    results = ROOT / "benchmarks" / "results" / "loop.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    told = {
        method: [int(seeds), *cells.split(" | ")]
        for method, seeds, cells in re.findall(
            r"^\| `([\w-]+)` \| (\d) \| (.*) \|$", text_of("docs/shop.md"), re.M
        )
    }

    def ahead(of: str, method: str) -> str:
        found_so = found["claims"][of]["ahead_of"].get(method, {})
        if "low" not in found_so:  # itself, or of one seed
            return "–"
        ends = (found_so[name] for name in ("mean", "low", "high"))
        return "{:.3f} [{:.3f}, {:.3f}]".format(*ends).replace("-", "−")

    assert told == {
        method: [
            len(seeds),
            *(f"{mean:.3f}" for mean in found["methods"][method]["mean"]),
            ahead("mpo", method),
            ahead("ppo", method),
        ]
        for method, seeds in found["success"].items()
    }
    words = " ".join(text_of("docs/shop.md").split())
    best, ppo = (found["success"][method] for method in ("best-of-n", "ppo"))
    assert f"gives it {best[0][1]:.3f} on seed 0, where π₁ of `ppo` has {ppo[0][1]:.3f}" in words
    mpo = found["claims"]["mpo"]
    assert f"{mpo['share_of_optimum']:.2f} of the optimum" in words
    assert f"success rises in every round of {mpo['seeds_rising']} seeds" in words
    claims = found["claims"]["ppo"]
    share = f"{claims['share_of_optimum']:.2f} of the optimum of {found['optimum']:.3f}"
    assert f"ends at {share}" in words
    assert claims["seeds_rising"] == 4, "in every round of four of the five seeds"
    grpo = found["success"]["grpo"]
    assert all(rates == sorted(set(rates)) for rates in grpo), "rises in every round of all five"


def test_the_speed_of_ingest_is_the_recorded_benchmark() -> None:
    results = ROOT / "benchmarks" / "results" / "ingest.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    _, _, section = text_of("docs/logs.md").partition("## Speed and memory")
    cells = [row.split(" | ")[1] for row in re.findall(r"^\| (?!measured)\w.*$", section, re.M)]

    assert [[float(n) for n in re.findall(r"[\d.]+", cell)] for cell in cells] == [
        [found["parse_ratio"]],
        [found["two_process_speedup"], found["two_process_ceiling"]],
        [found["peak_mb"]],
        [found["peak_mb_5x"]],
        [found["returns_vs_duckdb"], found["returns_vs_duckdb_unwritten"]],
    ]


def test_what_the_readme_says_of_the_loop_is_the_recorded_benchmark() -> None:
    results = ROOT / "benchmarks" / "results" / "loop.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    mean = {method: numbers["mean"] for method, numbers in found["methods"].items()}
    said = re.findall(r"\b0\.\d{3}\b", text_of("README.md").partition("## Does it work?")[2])

    assert list(map(float, said[:7])) == pytest.approx(
        [
            mean["ppo"][0],
            mean["ppo"][-1],
            found["optimum"],
            mean["filtered-cloning"][-1],
            mean["single-turn-outcome"][-1],
            mean["best-of-n"][-1],
            mean["mpo"][-1],
        ],
        abs=6e-4,
    )


def test_the_table_of_personas_is_the_recorded_benchmark() -> None:
    results = ROOT / "benchmarks" / "results" / "personas.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    page = text_of("docs/exploration.md")
    rows = re.findall(r"^\| actions that (?:it|the script) takes.*?\| (.*) \|$", page, re.M)

    for kind, row in zip(("likely", "unlikely"), rows, strict=True):
        plain, personas, constant = (list(map(float, c.split(", "))) for c in row.split(" | "))
        seeds = found["seeds"]
        assert plain == pytest.approx([s["plain"]["lstdq"][kind]["rmse"] for s in seeds], abs=6e-4)
        assert personas == pytest.approx(
            [s["personas"]["lstdq"][kind]["rmse"] for s in seeds], abs=6e-4
        )
        assert constant == pytest.approx([s["constant"][kind] for s in seeds], abs=6e-4)
    falls = re.search(r"it falls by (\d+) %, by −(\d+) % and by (\d+) %", page)
    assert falls is not None
    first, second, third = map(int, falls.groups())
    assert [first, -second, third] == [round(100 * fall) for fall in found["fall"]["lstdq"]]


def test_the_table_of_steps_is_the_recorded_benchmark() -> None:
    results = ROOT / "benchmarks" / "results" / "policy_step.json"
    found = json.loads(results.read_text(encoding="utf-8"))["configurations"]
    wanted = []
    for settings, one in found.items():
        mean, low, high = (one["gain"][name] for name in ("mean", "low", "high"))
        gained = sum(gain != 0 for gain in one["gains"])
        wanted.append(
            [
                f"`{settings}`",
                f"{mean:.3f} [{low:.3f}, {high:.3f}]".replace("-", "−"),
                f"{gained} of {len(one['gains'])}",
                f"{one['kl']:.2f}",
                f"{one['cpu_s']:.0f}",
            ]
        )

    rows = re.findall(r"^\| `completions_per_prompt=.*$", text_of("docs/choosing.md"), re.M)
    assert [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows] == wanted


def test_the_table_of_stops_is_the_recorded_benchmark() -> None:
    results = ROOT / "benchmarks" / "results" / "overoptimisation.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    words = {"KL": "KL", "distinct": "bigrams", "Q": "the judge"}
    wanted = []
    for seed, run in enumerate(found["seeds"]):
        gold = [point["gold"] for point in run["mean"]]
        wanted.append(
            [
                *(str(seed), f"{gold[0]:.3f}", f"{max(gold):.3f}", f"{gold[-1]:.3f}"),
                f"{run['stop']}: {words[run['reason'].split()[0]]}",
                *(f"{gold[run['kept']]:.3f}", f"{run['gold_share']:.3f}"),
                f"{run['gain_share']:.2f}",
                f"{max(point['gold'] for point in run['lower_bound']):.3f}",
            ]
        )

    rows = re.findall(r"^\| \d \| 0\..*$", text_of("docs/choosing.md"), re.M)
    assert [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows] == wanted
    assert found["within_a_tenth"] == len(wanted) == 5, "in all five"
    defaults = PPOConfig()
    assert (defaults.kl_budget, defaults.judge_fall) == (25, 2)


def test_the_speed_beside_trl_is_the_recorded_benchmark() -> None:
    results = ROOT / "benchmarks" / "results" / "ppo_vs_trl.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    words = " ".join(text_of("docs/comparison.md").split())

    assert (
        f"makes {found['speedup_1m']:.1f} completions in the time of one at one million parameters "
        f"and {found['speedup_50m']:.1f} at fifty, in {found['memory_ratio_1m']:.2f} and "
        f"{found['memory_ratio_50m']:.2f} of the memory"
    ) in words
    mean, low, high = (found["learning_ahead"][name] for name in ("mean", "low", "high"))
    assert f"{mean:+.3f} [{low:.3f}, {high:.3f}] over three seeds".replace("-", "−") in words
    assert found["threads"] == 1


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_valid_and_its_batches_divide(name: str) -> None:
    file = ROOT / "configs" / name
    for stage in STAGES.values():
        load_config(stage.name, stage.config, file=file, sections=sections())

    told = tomllib.loads(file.read_text(encoding="utf-8"))
    ppo = STAGES["ppo"].config.model_validate(told.get("ppo", {}))
    for processes in (1, 2, 4):
        shares(ppo, processes=processes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name != "tiny.toml"])
def test_q_of_a_real_model_sees_a_whole_state_and_its_action(name: str) -> None:
    told = tomllib.loads((ROOT / "configs" / name).read_text(encoding="utf-8"))
    init, fit_q = told["init"], told["fit-q"]

    assert fit_q["max_tokens"] >= init["max_prompt_tokens"] + init["max_new_tokens"]


def test_the_page_of_configurations_names_them_all() -> None:
    named = set(re.findall(r"`([\w.-]+\.toml)`", text_of("configs/README.md")))

    assert named == {*CONFIGURATIONS, "personas.toml"}


def told(number: float) -> str:
    return f"{number:.2f}".replace("-", "−").replace("0.", ".", 1)


PAID = {
    "the outcome as a whole": "outcome",
    "the outcome, split evenly": "uniform",
    "Norm-ITPO, softmax of sums": "norm-itpo-sum",
    "Norm-ITPO, softmax of means": "norm-itpo-mean",
    "ITPO, in the batch's scale": "itpo",
    "token rewards (PRIME)": "prime",
    "Q̂ − V̂ of the batches alone": "mc-q",
}
CREDITED = {
    "names the most valuable turn": "ITPO finds the best turn more often than guessing",
    "names the least valuable turn": "ITPO finds the worst turn more often than guessing",
    "Norm-ITPO's mean of tokens": "Norm-ITPO's mean finds the best turn more often than guessing",
    "goes with the outcome": "the implicit sum goes with the outcome",
    "the scale of plain sums drifts": "the scale of plain sums drifts",
    "steady after PRIME's division": ("the scale is steady under PRIME's batch normalisation"),
}


def test_the_tables_of_itpo_are_the_recorded_benchmark() -> None:
    recorded = json.loads((ROOT / "benchmarks/results/itpo.json").read_text(encoding="utf-8"))
    rows = {
        cells[0]: cells[1:]
        for line in text_of("docs/itpo.md").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }

    assert (recorded["quick"], recorded["seeds"]) == (False, 5)
    for name, method in PAID.items():
        found = [recorded["success"]["tutor"].get(f"{e} {method}") for e in ("rloo", "grpo", "ppo")]
        assert rows[name] == [
            "" if each is None else f"{told(each[0])} [{told(each[1])}, {told(each[2])}]"
            for each in found
        ]
    for start, name in CREDITED.items():
        (row,) = [cells for first, cells in rows.items() if first.startswith(start)]
        for world, cell in zip(("tutor", "shop"), row, strict=False):
            claim = recorded["claims"][f"{world}: {name}"]
            low, high = (told(end) for end in claim["interval"])
            assert cell.endswith(f"{told(claim['value'])} [{low}, {high}]")


def test_decisions_are_numbered_without_a_gap_and_have_four_parts() -> None:
    assert [int(name[:4]) for name in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    for name in DECISIONS:
        text = text_of(f"docs/decisions/{name}")
        assert re.findall(r"^#+ (.+)$", text, re.MULTILINE)[1:] == [
            "Context",
            "Decision",
            "Consequences",
            "What would change it",
        ]
        title = re.match(r"# \d{4}: (.+)", text)
        assert title is not None
        assert f"[{title[1]}]({name})" in text_of("docs/decisions/index.md")


def test_the_citation_is_that_of_this_version() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    assert {"cff-version", "message", "title", "authors"} <= set(told)
    assert (told["title"], told["version"]) == ("iterppo", iterppo.__version__)
    assert told["license"] == "Apache-2.0"
    paper = told["preferred-citation"]
    assert paper["date-released"] == date(2025, 11, 27)
    assert paper["authors"][0]["family-names"] == "Jiang"


def test_the_licence_is_the_one_that_the_package_names() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["license"] == "Apache-2.0"
    assert text.split()[:5] == ["Apache", "License", "Version", "2.0,", "January"]
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text


def test_the_changelog_has_a_section_for_what_is_not_released_yet() -> None:
    headings = re.findall(r"^##+ (.+)$", text_of("CHANGELOG.md"), re.MULTILINE)

    assert headings[0] == "Unreleased"
    assert set(headings[1:]) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
