"""Run one stage: configuration, places, the up-to-date check, and only then the stage itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.artifact import (
    MANIFEST,
    InputRecord,
    Manifest,
    file_records,
    fingerprint,
    is_up_to_date,
    open_artifact,
    read_manifest,
)
from iterppo.artifact.places import refuse_nesting, refuse_place, refuse_to_replace
from iterppo.artifact.placing import begin, sweep
from iterppo.config import (
    EvaluateConfig,
    FitQConfig,
    IngestConfig,
    InitConfig,
    PPOConfig,
    ReturnsConfig,
    RolloutConfig,
    StageConfig,
)
from iterppo.config_loading import load_config
from iterppo.engines.light_arrow import leave_pandas_out
from iterppo.errors import GateError, ProcessError, UsageError
from iterppo.launch import Processes, end_with_whoever_started_this, is_launched, launch
from iterppo.pipeline import BEHAVIOUR, STAGES, Slot, Stage, resolve, sections
from iterppo.progress import loudness, timed

if TYPE_CHECKING:
    from iterppo.logs.sources import LogFile


def execute(
    name: str,
    *,
    inputs: Mapping[str, Path | None],
    outputs: Mapping[str, Path | None],
    round_folder: Path | None,
    config_file: Path | None,
    settings: Sequence[str | tuple[str, str, Any]],
    force: bool,
    extra: Mapping[str, Any],
    processes: Processes | None = None,
) -> tuple[Manifest | None, Path, bool]:
    """Run the stage `name` unless its artifacts are up to date.

    Args:
        name: Of the stage.
        inputs: Path of each artifact that it reads; None: the round's.
        outputs: Path of each that it writes.
        round_folder: Names what has no path.
        config_file: TOML.
        settings: What was set besides.
        force: Run it although it is up to date.
        extra: What else its `run` takes.
        processes: For a stage that may run as several.

    Returns:
        The manifest of the main artifact, its path, and whether anything was done. In a process
        that another one writes for, there is no manifest.

    Raises:
        IterPPOError: Anything that is the user's to mend.
    """
    with contextlib.ExitStack() as stack:
        return _execute(
            STAGES[name],
            inputs,
            outputs,
            round_folder,
            config_file,
            settings,
            force,
            extra,
            processes,
            stack,
        )


def _execute(
    stage: Stage,
    inputs: Mapping[str, Path | None],
    outputs: Mapping[str, Path | None],
    round_folder: Path | None,
    config_file: Path | None,
    settings: Sequence[str | tuple[str, str, Any]],
    force: bool,
    extra: Mapping[str, Any],
    processes: Processes | None,
    stack: contextlib.ExitStack,
) -> tuple[Manifest | None, Path, bool]:
    name = stage.name
    config = load_config(
        name, stage.config, file=config_file, settings=settings, sections=sections()
    )
    arguments: dict[str, Any] = {}
    for slot in stage.writes:
        option = "--out" if slot.name == "out" else f"--{slot.name}"
        arguments[slot.name] = resolve(
            slot, outputs.get(slot.name), round_folder, option=option, stage=name
        )
    given = dict(extra)
    for slot in stage.reads:
        unread = _setting_that_reads(slot, config)
        if unread and inputs.get(slot.name) is not None:
            raise UsageError(
                f"{name}: --{slot.name} {inputs[slot.name]} is not read under this configuration. "
                f"Leave it away, or add --set {unread}."
            )
        if given.get("scripted") or unread:
            arguments[slot.name] = None
            continue
        arguments[slot.name] = resolve(
            slot, inputs.get(slot.name), round_folder, option=f"--{slot.name}", stage=name
        )
    _refuse_places(stage, arguments)
    if name == "ingest":
        given["logs"] = _find_logs(given["logs"], round_folder, arguments["out"], stack)
    out: Path = arguments["out"]
    may_be_done = not force and all(arguments[slot.name].exists() for slot in stage.writes)
    expected = None
    if may_be_done or name != "ingest":  # which takes the digests of new logs while it reads them
        with timed(f"{name}: digests of the inputs"):
            records = input_records(stage, arguments, given, config)
        expected = fingerprint(name, config.model_dump(mode="json", by_alias=True), records)
        if may_be_done and all(is_up_to_date(arguments[s.name], expected) for s in stage.writes):
            return read_manifest(out), out, False
        if name == "ingest":
            given["inputs"] = records
    for slot in stage.writes:
        refuse_to_replace(arguments[slot.name], slot.kind)
    if isinstance(config, PPOConfig) and config.algorithm == "mpo" and processes is not None:
        _refuse_several(processes)
    if name == "ppo" and not force:
        _refuse_strangers(arguments)
        _refuse_noise(arguments["q"])
    if not force:
        _refuse_other_turns(stage, arguments)
    if given.get("engine") == "local":  # then nothing in it needs pandas
        leave_pandas_out()
    if processes is not None and is_launched():
        end_with_whoever_started_this()
    elif processes is not None and processes.several:
        launch(_command(stage, arguments, given, config_file, settings, processes), processes)
        if not (expected and is_up_to_date(out, expected)):
            raise ProcessError(f"{name}: its processes ended well, and {out} is not there.")
        return read_manifest(out), out, True
    if processes is not None and processes.deepspeed is not None:
        given["deepspeed"] = processes.deepspeed
    with timed(f"{name}: all of it"):
        manifest = stage.run(config, **arguments, **given)
    return manifest, out, True


def _setting_that_reads(slot: Slot, config: StageConfig) -> str:
    """What would make a stage look at what may lie there; empty where it does."""
    if isinstance(config, FitQConfig) and slot.name == "actions" and not config.reads_actions:
        return "fit-q.method=fqe (or lstdq)"
    if isinstance(config, PPOConfig) and slot.name == "trajectories":
        return "" if config.critic_warmup == "returns" else "ppo.critic_warmup=returns"
    if isinstance(config, ReturnsConfig) and slot.name == "credit":
        return "" if config.rewards == "credit" else "returns.rewards=credit"
    return ""


def _command(
    stage: Stage,
    arguments: Mapping[str, Path | None],
    given: Mapping[str, Any],
    config_file: Path | None,
    settings: Sequence[str | tuple[str, str, Any]],
    processes: Processes,
) -> list[str]:
    """What each of several processes is started with: all places are known, and all was checked."""
    options = {f"--{slot.name}": arguments[slot.name] for slot in (*stage.reads, *stage.writes)}
    options |= {"--config": config_file, "--deepspeed": processes.deepspeed}
    named = [text for name, path in options.items() if path for text in (name, str(path))]
    for folder in given.get("earlier", ()):
        named += ["--earlier", str(folder)]
    for setting in settings:
        assert isinstance(setting, str), "only ingest has others"
        named += ["--set", setting]
    loud = [] if loudness() == "normal" else [f"--{loudness()}"]
    return [stage.name, *named, *loud, "--force"]


def _refuse_noise(q: Path) -> None:
    """A policy that is trained on noise gets worse in ways that nobody sees."""
    metrics = read_manifest(q, "q").metrics
    if metrics.get("verdict") == "noise":
        raise GateError(
            f"{q}: this Q is noise as a reward. {metrics.get('verdict_reason')} Collect more "
            "conversations, or train on it all the same with --force."
        )


def _refuse_strangers(arguments: Mapping[str, Path]) -> None:
    """Prompts and Q of other rounds, which are read without a word and teach nothing."""
    places = {name: arguments[name] for name in ("prompts", "q", "policy")}
    manifests = {name: read_manifest(place) for name, place in places.items()}

    def refuse(name: str, what: str) -> None:
        raise UsageError(
            f"{places[name]}: {what}. Name artifacts of one round, or train all the same with "
            "--force."
        )

    made_of = {name: manifests[name].inputs for name in ("prompts", "q")}
    for name, inputs in made_of.items():
        policy = inputs.get("policy")
        if policy is not None and policy.digest != manifests["policy"].digest:
            refuse(name, f"was made with another policy ({policy.path}) than {places['policy']}")
    logs = [inputs.get("trajectories") for inputs in made_of.values()]
    if None not in logs and len({log.digest for log in logs if log is not None}) > 1:
        refuse("q", f"was fitted on another log than that of {places['prompts']}")


def _refuse_other_turns(stage: Stage, arguments: Mapping[str, Path | None]) -> None:
    """What was made of trajectories that were made again since, with other outcomes it may be: the
    turns still have the same names, so that they are read together without a word."""
    log = arguments.get("trajectories")
    for slot in stage.reads:
        place = arguments[slot.name]
        if log is None or place is None or slot.kind not in ("returns", "credit", "actions"):
            continue
        source = read_manifest(place).inputs.get("trajectories")
        if source is not None and source.digest != read_manifest(log).digest:
            raise UsageError(
                f"{place}: was made of other trajectories than {log} holds now. Run: iterppo "
                f"{read_manifest(place).stage}, name artifacts of one round, or go on all the same "
                "with --force."
            )


def _refuse_several(processes: Processes) -> None:
    if processes.several or is_launched():
        raise UsageError(
            "ppo: mpo trains in one process. Leave --nproc, --hostfile and --deepspeed away, or "
            "take another algorithm."
        )


def _find_logs(
    patterns: Sequence[str], round_folder: Path | None, out: Path, stack: contextlib.ExitStack
) -> list[LogFile]:
    """The logs that are named; standard input in a file that goes when the stage is done."""
    from iterppo.logs.sources import LOG_FILE, STANDARD_INPUT, find_logs

    logs = find_logs(patterns, round_folder)
    for number, log in enumerate(logs):
        if log.location == STANDARD_INPUT:
            logs[number] = _spooled(out, stack)
    for log in logs:
        path = Path(log.location)
        if path.name == LOG_FILE and (path.parent / MANIFEST).exists():
            # A rollout's log is an artifact, and may be damaged as any other.
            open_artifact(path.parent, "log")
    return logs


def _spooled(out: Path, stack: contextlib.ExitStack) -> LogFile:
    """Standard input, in a hidden folder beside `out`: what a killed run leaves of a log that was
    never to be kept goes with the next one."""
    from iterppo.logs.sources import spool

    try:
        sweep(out)
        begun = begin(out)
        stack.callback(begun.end)
        return spool(sys.stdin.buffer, begun.folder)
    except OSError as error:
        raise UsageError(
            f"{out}: standard input could not be read into a file beside it "
            f"({error.strerror or error}). See who may use that folder and what room it has, and "
            "run the same command again."
        ) from None


def _refuse_places(stage: Stage, arguments: Mapping[str, Path | None]) -> None:
    """Before anything is read: where nothing can be written, or something would be destroyed."""
    slots = (*stage.reads, *stage.writes)
    places = {slot.name: path for slot in slots if (path := arguments[slot.name]) is not None}
    written = {slot.name: slot.kind for slot in stage.writes}
    for name, kind in written.items():
        refuse_place(places[name], kind)
    refuse_nesting(places, set(written), stage.name)


def input_records(
    stage: Stage, arguments: Mapping[str, Any], given: Mapping[str, Any], config: StageConfig
) -> dict[str, InputRecord]:
    """The inputs of a stage by content; the check that each is of the right kind happens here,
    before torch."""
    records: dict[str, InputRecord] = {}
    for slot in stage.reads:
        path = arguments[slot.name]
        if path is None:
            continue
        # Conversations are held by an export as often as by a training artifact; both hold the same
        # model.
        manifest = read_manifest(path, None if slot.place == BEHAVIOUR else slot.kind)
        if manifest.kind not in (slot.kind, "export"):
            read_manifest(path, slot.kind)  # raises with the message for a wrong kind
        records[slot.name] = InputRecord(path=str(path), kind=manifest.kind, digest=manifest.digest)
    for number, folder in enumerate(given.get("earlier", ())):
        for kind in ("trajectories", "returns"):
            manifest = read_manifest(folder / kind, kind)
            records[f"earlier {number} {kind}"] = InputRecord(
                path=str(folder / kind), kind=kind, digest=manifest.digest
            )
    if isinstance(config, IngestConfig):
        from iterppo.logs.ingested_files import ingest_records

        records |= ingest_records(config, given["logs"])
    if isinstance(config, EvaluateConfig):
        if config.lexicon:
            records |= file_records("lexicon", [p for p in [Path(config.lexicon)] if p.is_file()])
        for rule in config.classifiers:
            folder = Path(rule.model)
            found = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
            records |= file_records(f"classifier {rule.name}", found)
    if isinstance(config, InitConfig):
        if config.model == "scratch" and arguments.get("trajectories") is None:
            raise UsageError(
                "init: a model from scratch is trained on a log. Name --trajectories, --round, or "
                "--model FOLDER."
            )
        if Path(config.model).is_dir():
            records |= file_records(
                "model", sorted(p for p in Path(config.model).iterdir() if p.is_file())
            )
    if isinstance(config, RolloutConfig):
        from iterppo.environments.loader import source_files

        found = given.get("environment") or source_files(config.env)
        records |= file_records("environment", found)
    return records
