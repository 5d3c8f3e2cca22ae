"""Configuration: defaults, files, `--set`, and what is said of a typo."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from iterppo.config import PPOConfig, StageConfig
from iterppo.config_loading import load_config
from iterppo.errors import UsageError
from iterppo.pipeline import STAGES, sections

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(file for file in (ROOT / "configs").rglob("*.toml") if file.name != "personas.toml")


def load(stage: str, *settings: Any, file: str | None = None) -> Any:
    """The configuration of a stage; `file` is the text of run.toml in the current folder."""
    if file is not None:
        Path("run.toml").write_text(file, encoding="utf-8")
    return load_config(
        stage,
        STAGES[stage].config,
        file=None if file is None else Path("run.toml"),
        settings=settings,
        sections=sections(),
    )


def message(stage: str, *settings: Any, file: str | None = None) -> str:
    with pytest.raises(UsageError, match=r".") as raised:
        load(stage, *settings, file=file)
    assert raised.value.exit_status == 2
    return str(raised.value)


# --- what is resolved ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_without_a_file_every_stage_has_its_defaults(stage: str) -> None:
    assert load(stage) == STAGES[stage].config()
    assert load(stage).seed == 0


def test_a_file_changes_the_sections_that_it_names(folder: Path) -> None:
    text = "[returns]\ngamma = 0.5\n[fit-q]\nloss = 'squared'\n[ppo]\nlambda = 0.9\n"

    assert load("returns", file=text).gamma == 0.5
    assert load("fit-q", file=text).loss == "squared"
    assert load("ppo", file=text) == PPOConfig.model_validate({"lambda": 0.9})
    assert load("ingest", file=text) == STAGES["ingest"].config()


def test_an_empty_file_changes_nothing(folder: Path) -> None:
    assert load("ppo", file="") == PPOConfig()


def test_one_seed_serves_every_stage_that_does_not_name_its_own(folder: Path) -> None:
    text = "seed = 7\n[ppo]\nseed = 8\n"

    assert {stage: load(stage, file=text).seed for stage in STAGES} == {
        stage: 8 if stage == "ppo" else 7 for stage in STAGES
    }


def test_a_setting_wins_over_the_file_and_the_last_one_over_the_first(folder: Path) -> None:
    text = "seed = 1\n[ppo]\nclip = 0.3\nupdates = 5\nseed = 2\n"
    found = load("ppo", "ppo.clip=0.1", "ppo.clip=0.2", "seed=9", file=text)

    assert (found.clip, found.updates, found.seed) == (0.2, 5, 2)
    assert load("ppo", "seed=9", "ppo.seed=3", file=text).seed == 3
    assert load("returns", "seed=9", file=text).seed == 9


@pytest.mark.parametrize(
    ("stage", "setting", "key", "value"),
    [
        pytest.param("ppo", "ppo.clip=0.1", "clip", 0.1, id="a number"),
        pytest.param("ppo", "ppo.learning_rate=1e-5", "learning_rate", 1e-5, id="a small number"),
        pytest.param("ppo", "ppo.clip=1", "clip", 1.0, id="a whole number where any will do"),
        pytest.param("ppo", "ppo.updates=1_000", "updates", 1000, id="a whole number"),
        pytest.param(
            "ppo", "ppo.whiten_advantages=false", "whiten_advantages", False, id="a boolean"
        ),
        pytest.param(
            "ppo", "ppo.lambda=0.5", "lambda_", 0.5, id="a name that Python keeps for itself"
        ),
        pytest.param("fit-q", "fit-q.loss=squared", "loss", "squared", id="a bare word"),
        pytest.param("fit-q", 'fit-q.loss="squared"', "loss", "squared", id="a word in quotes"),
        pytest.param("fit-q", " fit-q.loss = squared ", "loss", "squared", id="blanks around"),
        pytest.param(
            "init",
            "init.system_prompt=Be kind = be brief.",
            "system_prompt",
            "Be kind = be brief.",
            id="a sentence",
        ),
        pytest.param("init", 'init.model="7"', "model", "7", id="a text that looks like a number"),
        pytest.param(
            "init", "init.model=Qwen/Qwen3-0.6B", "model", "Qwen/Qwen3-0.6B", id="a hub id"
        ),
        pytest.param(
            "rollout",
            "rollout.env=my_shop:MyShop",
            "env",
            "my_shop:MyShop",
            id="module and factory",
        ),
        pytest.param("returns", "seed=12", "seed", 12, id="the seed of all"),
        pytest.param("returns", "returns.seed=12", "seed", 12, id="the seed of one"),
    ],
)
def test_a_setting_is_read_as_the_value_that_it_looks_like(
    stage: str, setting: str, key: str, value: Any
) -> None:
    found = getattr(load(stage, setting), key)

    assert found == value
    assert type(found) is type(value)


def test_a_setting_within_a_table_leaves_the_others_of_the_table(folder: Path) -> None:
    text = "[ingest.mapping]\ntime_zone = 'Europe/Berlin'\ncolumns = {content = 'body'}\n"

    found = load(
        "ingest",
        "ingest.mapping.time_format=ms",
        "ingest.mapping.columns.role=who",
        file=text,
    ).mapping

    assert (found.time_format, found.time_zone) == ("ms", "Europe/Berlin")
    assert found.columns == {"content": "body", "role": "who"}


def test_a_typo_in_a_table_of_the_file_is_not_blamed_on_a_setting_within_it(folder: Path) -> None:
    text = "[ingest.mapping]\ntiem_zone = 'Europe/Berlin'\n"

    assert message("ingest", "ingest.mapping.time_format=ms", file=text) == (
        "run.toml: unknown key ingest.mapping.tiem_zone. Did you mean 'time_zone'?"
    )


@pytest.mark.parametrize(
    ("written", "cutoff"),
    [
        ("2026-05-31T00:00:00Z", "2026-05-31T00:00:00Z"),
        ("2026-05-31T00:00:00+02:00", "2026-05-31T00:00:00+02:00"),
        ("2026-05-31 00:00:00", "2026-05-31T00:00:00"),
        ("2026-05-31", "2026-05-31"),
        ("'2026-05-31'", "2026-05-31"),
    ],
)
def test_a_moment_may_be_one_of_toml(folder: Path, written: str, cutoff: str) -> None:
    file = f"[ingest]\nidle = '1d'\ncutoff = {written}\n"

    assert load("ingest", file=file).cutoff == cutoff
    assert load("ingest", "ingest.idle=1d", f"ingest.cutoff={written}").cutoff == cutoff


def test_a_configuration_cannot_be_changed_once_it_is_made() -> None:
    config = load("ppo")

    with pytest.raises(ValidationError, match="frozen"):
        config.clip = 0.5


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_says_what_it_does(stage: str) -> None:
    fields = STAGES[stage].config.model_fields

    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("stage", STAGES)
def test_the_resolved_configuration_can_be_given_back_as_a_file(stage: str) -> None:
    resolved = load(stage, "seed=3")

    assert (
        STAGES[stage].config.model_validate(resolved.model_dump(mode="json", by_alias=True))
        == resolved
    )


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["ppo", "ingest"], ids=["its own stage", "another stage"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "[ppo]\nlerning_rate = 1",
            "run.toml: unknown key ppo.lerning_rate. Did you mean 'learning_rate'?",
            id="key",
        ),
        pytest.param(
            "[ppo]\nlambda_ = 1",
            "run.toml: unknown key ppo.lambda_. Did you mean 'lambda'?",
            id="alias",
        ),
        pytest.param(
            "[export]\nzzz = 1",
            "run.toml: unknown key export.zzz. Known: check, personas, seed.",
            id="key like no other",
        ),
        pytest.param(
            "[fitq]\n", "run.toml: unknown section 'fitq'. Did you mean 'fit-q'?", id="section"
        ),
        pytest.param("sed = 1", "run.toml: unknown section 'sed'. Did you mean 'seed'?", id="seed"),
        pytest.param(
            "[wisdom]\n",
            "run.toml: unknown section 'wisdom'. Known: actions, credit, evaluate, export, fit-q, "
            "ingest, init, ppo, prompts, returns, rollout, seed.",
            id="section like no other",
        ),
        pytest.param(
            "ppo = 1", "run.toml: 'ppo' is a section, write [ppo].", id="a section as a value"
        ),
        pytest.param("seed = 1.5", "run.toml: seed: must be an integer, is 1.5.", id="half a seed"),
        pytest.param(
            "seed = true", "run.toml: seed: must be an integer, is True.", id="a true seed"
        ),
        pytest.param(
            "[ppo]\nclip = 0",
            "run.toml: ppo.clip: Input should be greater than 0, is 0.",
            id="out of range",
        ),
        pytest.param(
            "[returns]\ngamma = 1.01",
            "run.toml: returns.gamma: Input should be less than or equal to 1, is 1.01.",
            id="a share above 1",
        ),
        pytest.param(
            "[ppo]\ncompletions_per_prompt = 1",
            "run.toml: ppo.completions_per_prompt: Input should be greater than or equal to "
            "2, is 1.",
            id="a group of one",
        ),
        pytest.param(
            "[fit-q]\nloss = 'hinge'",
            "run.toml: fit-q.loss: Input should be 'bce' or 'squared', is 'hinge'.",
            id="a choice that is none",
        ),
        pytest.param(
            "[ppo]\nclip = 'wide'",
            "run.toml: ppo.clip: Input should be a valid number, is 'wide'.",
            id="a word for a number",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_every_stage_with_file_and_key(
    folder: Path, stage: str, text: str, expected: str
) -> None:
    assert message(stage, file=text) == expected


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        pytest.param("ppo.clpi=0.1", "--set: unknown key ppo.clpi. Did you mean 'clip'?", id="key"),
        pytest.param(
            "pppo.clip=0.1",
            "--set pppo.clip=0.1: unknown section 'pppo'. Did you mean 'ppo'?",
            id="section",
        ),
        pytest.param(
            "ingest.mapping.time_fromat=ms",
            "--set: unknown key ingest.mapping.time_fromat. Did you mean 'time_format'?",
            id="key within a table",
        ),
        pytest.param(
            "ingest.mapping.time_format.unit=ms",
            "--set: ingest.mapping.time_format: Input should be a valid string, is {'unit': 'ms'}.",
            id="key within what is no table",
        ),
        pytest.param(
            "ingest.outcomes=[{by = 'events', fiel = 'x', file = 'y'}]",
            "--set: unknown key ingest.outcomes.0.events.fiel.",
            id="key of one of several kinds of tables",
        ),
        pytest.param(
            "clip=0.1",
            "--set clip=0.1: write section.key=value, as in --set ppo.clip=0.1, or seed=1.",
            id="no section",
        ),
        pytest.param(
            "ppo.clip",
            "--set ppo.clip: write section.key=value, as in --set ppo.clip=0.1, or seed=1.",
            id="no value",
        ),
        pytest.param("seed=x", "--set: seed: must be an integer, is 'x'.", id="seed in words"),
        pytest.param(
            "ppo.clip=-1",
            "--set: ppo.clip: Input should be greater than 0, is -1.",
            id="out of range",
        ),
        pytest.param(
            "ppo.clip=nan",
            "--set: ppo.clip: Input should be greater than 0, is nan.",
            id="not a number",
        ),
        pytest.param(
            "ppo.updates=1.5",
            "--set: ppo.updates: Input should be a valid integer, is 1.5.",
            id="half an update",
        ),
        pytest.param(
            "ppo.clip=",
            "--set: ppo.clip: Input should be a valid number, is ''.",
            id="nothing",
        ),
    ],
)
def test_a_wrong_setting_is_refused_by_every_stage(setting: str, expected: str) -> None:
    assert message("ppo", setting) == message("ingest", setting) == expected


def test_a_typo_of_the_file_is_not_blamed_on_a_setting_of_the_same_section(folder: Path) -> None:
    assert message("ppo", "ppo.clip=0.1", file="[ppo]\nupdats = 5") == (
        "run.toml: unknown key ppo.updats. Did you mean 'updates'?"
    )


@pytest.mark.parametrize(
    ("settings", "file", "where"),
    [
        pytest.param([("ingest", "cutoff", "2026-05-31")], None, "--cutoff: ", id="an option"),
        pytest.param(["ingest.cutoff=2026-05-31"], None, "--set: ", id="a setting"),
        pytest.param([], "[ingest]\ncutoff = '2026-05-31'", "run.toml: ", id="a file"),
        pytest.param(
            [("ingest", "cutoff", "2026-05-31")], "[ppo]\nclip = 0.1", "--cutoff: ",
            id="an option beside a file that is silent of it",
        ),
        pytest.param(
            [("ingest", "cutoff", "2026-05-31")], "[ingest]\nheldout = 0.1", "",
            id="an option, or a file",
        ),
        pytest.param(
            [("ingest", "cutoff", "2026-05-31"), "ingest.heldout=0.1"], None, "",
            id="an option, or a setting",
        ),
    ],
)  # fmt: skip
def test_of_settings_that_contradict_each_other_a_place_is_named_if_it_is_certain(
    folder: Path, settings: list[Any], file: str | None, where: str
) -> None:
    assert message("ingest", *settings, file=file).startswith(f"{where}ingest: cutoff needs idle")


def test_patterns_of_redaction_are_refused_where_nothing_is_masked(folder: Path) -> None:
    assert message("ingest", "ingest.redact_patterns={order='RE'}") == (
        "--set: ingest: redact_patterns mask nothing without redact = true (--redact)."
    )


def test_a_seed_of_all_is_blamed_on_where_it_was_set(folder: Path) -> None:
    assert message("ppo", "seed=-1", file="[ppo]\nclip = 0.1").startswith("--set: ")
    assert message("ppo", "ppo.clip=0.1", file="seed = -1").startswith("run.toml: ")


@pytest.mark.parametrize("value", ["true", "false"])
@pytest.mark.parametrize("key", ["ingest.heldout", "ppo.updates", "ppo.clip"])
def test_true_is_not_a_number(key: str, value: str) -> None:
    assert message(key.partition(".")[0], f"{key}={value}").startswith(f"--set: {key}: ")


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
@pytest.mark.parametrize("key", ["seed", "fit-q.seed"])
def test_a_seed_that_numpy_would_refuse_later_is_refused_at_once(key: str, seed: str) -> None:
    assert f"{key}: " in message("fit-q", f"{key}={seed}")


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="no such") as raised:
        load_config("ppo", PPOConfig, file=Path("absent.toml"), sections=sections())

    assert str(raised.value) == "absent.toml: no such configuration file. Check --config."


def test_a_file_that_is_not_toml_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="toml") as raised:
        load_config("ppo", PPOConfig, file=Path("run.yaml"), sections=sections())

    assert str(raised.value) == "run.yaml: a configuration is a .toml file."
    assert message("ppo", file="[ppo\n") == (
        "run.toml: not TOML: Expected ']' at the end of a table declaration (at line 1, column 5). "
        "Mend it there."
    )


def test_a_file_that_is_not_text_is_named(folder: Path) -> None:
    Path("run.toml").write_bytes(b"\xff")

    with pytest.raises(UsageError, match=r"^run\.toml: cannot be read \('utf-8' codec can't"):
        load_config("ppo", PPOConfig, file=Path("run.toml"), sections=sections())


# --- the files of the repository -----------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("file", FILES, ids=[file.relative_to(ROOT).as_posix() for file in FILES])
def test_every_file_of_the_repository_is_a_configuration_of_every_stage(
    file: Path, stage: str
) -> None:
    found = load_config(stage, STAGES[stage].config, file=file, sections=sections())

    assert isinstance(found, StageConfig)


@pytest.mark.skipif(not FILES, reason="configs/ holds no TOML file yet")
def test_the_embedded_default_is_among_the_files_of_the_repository() -> None:
    assert ROOT / "configs" / "tiny.toml" in FILES
