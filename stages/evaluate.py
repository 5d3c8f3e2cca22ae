"""`iterppo evaluate`: trajectories@2, returns@1, policy@1 of π_k and of π_{k+1} (and actions@1 of
both, q@2 of fqe) -> evaluation@1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.artifact import Artifact, ArtifactWriter, Manifest, open_artifact, paired_conversations
from iterppo.config import OFF_POLICY, EvaluateConfig, FitQConfig
from iterppo.contracts.trajectories import action
from iterppo.errors import DataError, UsageError
from iterppo.logs.splits import unit_hash
from iterppo.progress import say

if TYPE_CHECKING:
    from iterppo.lm.off_policy import Place, QReading
    from iterppo.lm.policy import Policy
    from iterppo.statistics.evaluation import Estimate, FittedQ
    from iterppo.statistics.guardrails import Guardrail
    from iterppo.statistics.off_policy_log import LoggedConversation

Asked = dict["Place", list[str | None]]
MOST_KL = 512
"""Suggestions on which the KL is measured where training did not."""
MOST_APART = 0.01
"""Share of the turns whose log-probabilities may disagree before anybody is warned."""


def run(
    config: EvaluateConfig,
    *,
    trajectories: Path,
    returns: Path,
    policy: Path,
    candidate: Path,
    out: Path,
    q: Path | None = None,
    proposals: Path | None = None,
    fqe: Path | None = None,
    twin: Path | None = None,
    actions: Path | None = None,
) -> Manifest:
    """Estimate the candidate's value from the log of `policy`, compare what both say, decide."""
    from iterppo.lm.policy import load_policy, prepare_libraries, use_accelerator
    from iterppo.statistics.suggestion_measures import load_lexicon

    load_lexicon(config.lexicon)  # refuse a wrong one before models are loaded
    prepare_libraries()
    named = {
        "trajectories": (trajectories, "trajectories"),
        "returns": (returns, "returns"),
        "policy": (policy, None),
        "candidate": (candidate, "policy"),
        "q": (q, "q"),
        "proposals": (proposals, "actions"),
        "fqe": (fqe, "q"),
        "twin": (twin, "q"),
        "actions": (actions, "actions"),
    }
    given = {
        name: open_artifact(path, kind) for name, (path, kind) in named.items() if path is not None
    }
    _refuse_another_q(given)
    inputs = {name: artifact.record() for name, artifact in given.items()}
    with ArtifactWriter(
        out, kind="evaluation", stage="evaluate", config=config, inputs=inputs
    ) as writer:
        old, new = load_policy(policy), load_policy(candidate)
        use_accelerator(old)
        use_accelerator(new)
        log = _read(given["trajectories"], given["returns"])
        unlearned, flattery = _unlearned(config, log, given)
        asked = _suggestions(config, log, old, new, given)
        readings, fitted = _readings(given, unlearned, asked.new, old.settings.system_prompt)
        ratios = _ratios(config, unlearned, old, new)
        found = _estimates(config, unlearned, ratios.by_source, readings, fitted)
        guarded = _guardrails(config, log, asked)
        kl = _kl(config, given, log, old, new)
        told = _decision(config, found, guarded, given, [*flattery, *ratios.warnings], kl)
        for line in told["gate"]["warnings"]:
            say(f"evaluate: {line}")
        writer.write(_row(each, old, new) for each in found)
        writer.write_json("evaluation.json", told | {"logprobs": ratios.agreement})
        writer.metrics.update(_summary(told))
        writer.counts.update(
            conversations=len(log),
            conversations_estimated_on=len(unlearned),
            turns=sum(len(each.rows) for each in log),
            turns_cut_off=ratios.num_cut_off,
            states_compared=len(asked.new.keys() & asked.old.keys()),
        )
    return writer.manifest


def _refuse_another_q(given: Mapping[str, Artifact]) -> None:
    """The verdict that counts is that on the Q which the policy climbed."""
    climbed = given["candidate"].manifest.inputs.get("q")
    if climbed is not None and "q" in given and climbed.digest != given["q"].manifest.digest:
        raise UsageError(
            f"evaluate: {given['candidate'].path} was not trained on {given['q'].path}. Name the "
            "one with --q, or run ppo again."
        )


@dataclass(frozen=True)
class _Logged:
    """A conversation of the log."""

    name: str
    split: str
    rows: list[dict[str, Any]]
    weight: float
    """Inverse-censoring; 0 where its return is not known."""


@dataclass(frozen=True)
class _Asked:
    """Suggestions of both policies by state."""

    new: Asked
    old: Asked


@dataclass(frozen=True)
class _Ratios:
    """log π_{k+1} − log π_k by conversation and turn, by where the latter is from."""

    by_source: dict[str, list[list[float]]]
    agreement: dict[str, Any]
    num_cut_off: int
    warnings: list[str]


def _read(source: Artifact, paid: Artifact) -> list[_Logged]:
    log = []
    for rows, returns in paired_conversations(source, paid):
        first = returns[0]
        weight = 0.0 if first["return"] is None else float(first["weight"])
        log.append(_Logged(rows[0]["conversation_id"], rows[0]["split"], rows, weight))
    if not log:
        raise DataError(f"{source.path}: holds no conversation. Ingest the log of the old policy.")
    return log


def _unlearned(
    config: EvaluateConfig, log: Sequence[_Logged], given: Mapping[str, Artifact]
) -> tuple[list[_Logged], list[str]]:
    """The conversations that the estimates are from; and a warning where they taught the policy.

    Q was fitted to the training conversations' outcomes, noise and all, and the policy climbed Q:
    what it says more often is what went well there, for whatever reason. Their importance-weighted
    outcomes would count that luck a second time.
    """
    if config.conversations == "all":
        learned = given["q"].manifest.inputs if "q" in given else {}  # of earlier rounds as well
        if given["trajectories"].manifest.digest not in {each.digest for each in learned.values()}:
            return list(log), []
        return list(log), [
            f"Q was fitted on conversations of {given['trajectories'].path}, and their outcomes "
            "flatter the policy that climbed it: evaluate.conversations=heldout"
        ]
    heldout = [each for each in log if each.split != "train"]
    if not heldout:
        raise UsageError(
            f"{given['trajectories'].path}: holds no conversation out, and the others may have "
            "taught the policy. Ingest with ingest.heldout above 0; of a log that the policy did "
            "not learn from: --set evaluate.conversations=all."
        )
    return heldout, []


# --- suggestions ---


def _suggestions(
    config: EvaluateConfig,
    log: Sequence[_Logged],
    old: Policy,
    new: Policy,
    given: Mapping[str, Artifact],
) -> _Asked:
    """Of the artifacts that are named, else sampled in so many states of held-out conversations."""
    from iterppo.lm.off_policy import suggestions_in

    heldout = [each for each in log if each.split != "train"] or list(log)
    heldout.sort(key=lambda each: unit_hash(each.name, seed=config.seed))
    chosen: list[_Logged] = []
    for each in heldout:
        if sum(len(one.rows) for one in chosen) >= config.states:
            break
        chosen.append(each)
    rows = [each.rows for each in chosen]
    found = []
    for name, policy in (("proposals", new), ("actions", old)):
        if name in given:
            found.append(_read_actions(given[name], policy, name))
        else:
            found.append(suggestions_in(policy, rows, samples=config.samples, seed=config.seed))
    return _Asked(*found)


def _read_actions(artifact: Artifact, policy: Policy, name: str) -> Asked:
    found: Asked = {}
    for row in artifact.rows():
        if row["policy_version"] != policy.settings.version:
            raise UsageError(
                f"{artifact.path}: holds actions of {row['policy_version']}, not of "
                f"{policy.settings.version}. Name others with --{name}, or none."
            )
        found.setdefault((row["conversation_id"], row["turn"]), []).append(row["action"])
    return found


# --- Q ---


def _readings(
    given: Mapping[str, Artifact],
    log: Sequence[_Logged],
    suggestions: Asked,
    system_prompt: str,
) -> tuple[dict[str, QReading], FittedQ | None]:
    """What Q thinks of conversations that it was not fitted on. Where neither fqe nor its twin was,
    fqe is asked."""
    from iterppo.lm.off_policy import is_unseen, q_readings
    from iterppo.lm.q_function import QFunction
    from iterppo.statistics.evaluation import FittedQ

    if "fqe" not in given:
        if "twin" in given:
            raise UsageError("evaluate: --twin is a second Q beside --fqe. Name both.")
        return {}, None
    members = {
        name: given[name].manifest.config.get("members")
        for name in ("fqe", "twin")
        if name in given
    }
    if len(set(members.values())) > 1:
        raise UsageError(
            f"evaluate: --fqe has {members['fqe']} members and --twin {members['twin']}. Fit both "
            "with the same fit-q.members."
        )
    readings: dict[str, QReading] = {}
    troubles = []
    for name in ("twin", "fqe"):
        if name not in given:
            continue
        artifact = given[name]
        another = _another_policys(artifact, given.get("proposals"))
        troubles.append(another or _no_value(artifact, given["returns"]))
        if another is not None:
            continue  # any Q of this policy may help to doubly robust estimates, noise too
        fitted = QFunction.load(artifact.path / "model")
        fitted.use_accelerator()
        settings = FitQConfig.model_validate(artifact.manifest.config)
        unseen = [each.rows for each in log if is_unseen(each.name, each.split, settings)]
        readings |= q_readings(fitted, unseen, suggestions, system_prompt=system_prompt)
    trouble = next((each for each in troubles if each is not None), None)
    return readings, FittedQ(_gamma(given), trouble)


def _another_policys(fitted: Artifact, proposals: Artifact | None) -> str | None:
    """Why a Q is not known to be the new policy's."""
    made_with = fitted.manifest.inputs.get("actions")
    if fitted.manifest.config.get("method") not in OFF_POLICY or made_with is None:
        return f"{fitted.path} was fitted by neither fqe nor lstdq"
    if proposals is None or made_with.digest != proposals.manifest.digest:
        return (
            f"{fitted.path} was fitted with other actions than those of --proposals, so it may be "
            "another policy's Q"
        )
    return None


def _no_value(fitted: Artifact, returns: Artifact) -> str | None:
    """Why the new policy's Q does not tell its value: the outcome rate, discounted as `returns`."""
    fitted_on = fitted.manifest.inputs.get("returns")
    if fitted_on is not None and fitted_on.digest != returns.manifest.digest:
        return f"{fitted.path} was fitted on other returns than {returns.path}"
    if returns.manifest.config.get("rewards") == "credit":
        return f"{fitted.path} was fitted on credit, and its value is no outcome rate"
    if fitted.manifest.metrics.get("verdict") == "noise":
        return f"Q is noise: {fitted.manifest.metrics.get('verdict_reason')}"
    return None


def _gamma(given: Mapping[str, Artifact]) -> float:
    return float(given["returns"].manifest.config["gamma"])


# --- ratios ---


def _ratios(config: EvaluateConfig, log: Sequence[_Logged], old: Policy, new: Policy) -> _Ratios:
    """Ratios of probabilities with the logged and with the recomputed probabilities of π_k.

    An abstention whose logged log-probability is not that of an empty completion is one that was
    cut off at the length limit. What was sampled there is not in the log, so its ratio is unknown.
    """
    from iterppo.lm.off_policy import logprobs_of_log
    from iterppo.statistics.evaluation import agreement

    rows = [each.rows for each in log]
    after = logprobs_of_log(new, rows, own_turns_only=False)
    recomputed = logprobs_of_log(old, rows, own_turns_only=True)
    logged = [
        [0.0 if action(row) is None else _logged_logprob(row) for row in each.rows] for each in log
    ]
    num_cut_off = 0
    for number, each in enumerate(log):
        for index, row in enumerate(each.rows):
            apart = abs(logged[number][index] - recomputed[number][index])
            if row["adoption"] == "abstained" and apart > config.logprob_tolerance:
                logged[number][index] = recomputed[number][index] = math.nan
                num_cut_off += 1
    with_action = [[row["suggestion"] is not None for row in each.rows] for each in log]
    found = agreement(
        *(
            [
                value
                for values, has in zip(side, with_action, strict=True)
                for value, one in zip(values, has, strict=True)
                if one
            ]
            for side in (logged, recomputed)
        ),
        tolerance=config.logprob_tolerance,
    )
    warnings = []
    if found["num_turns"] and found["share_apart"] > MOST_APART:
        warnings.append(
            f"logged and recomputed log-probabilities differ by more than "
            f"{config.logprob_tolerance:g} nat on {found['share_apart']:.1%} of "
            f"{found['num_turns']} turns (median {found['median_difference']:+.2f}): the log was "
            "made at another temperature, with another prompt or by another policy, or its texts "
            "are tokenised in other ways than they were sampled"
        )
    by_source = {
        source: [
            [one - other for one, other in zip(*pair, strict=True)]
            for pair in zip(after, before, strict=True)
        ]
        for source, before in (("logged", logged), ("recomputed", recomputed))
    }
    return _Ratios(by_source, found, num_cut_off, warnings)


def _logged_logprob(row: Mapping[str, Any]) -> float:
    value = row["suggestion_logprob"]
    return math.nan if value is None else float(value)


# --- estimates and decision ---


def _estimates(
    config: EvaluateConfig,
    log: Sequence[_Logged],
    by_source: Mapping[str, Sequence[Sequence[float]]],
    readings: Mapping[str, QReading],
    fitted: FittedQ | None,
) -> list[Estimate]:
    from iterppo.statistics.evaluation import estimates
    from iterppo.statistics.overlap import limits_of

    return estimates(
        {
            source: [
                _conversation(each, list(ratios), readings.get(each.name))
                for each, ratios in zip(log, found, strict=True)
            ]
            for source, found in by_source.items()
        },
        fitted=fitted,
        limits=limits_of(config),
        gamma=config.gamma,
        seed=config.seed,
        samples=config.bootstrap_samples,
    )


def _conversation(
    each: _Logged, ratios: list[float], reading: QReading | None
) -> LoggedConversation:
    from iterppo.statistics.off_policy_log import LoggedConversation

    return LoggedConversation(
        each.name,
        [float(row["reward"]) for row in each.rows],
        ratios,
        each.weight,
        *(() if reading is None else (reading.q, reading.v, reading.first_values)),
    )


def _guardrails(config: EvaluateConfig, log: Sequence[_Logged], asked: _Asked) -> list[Guardrail]:
    """On states of held-out conversations where both policies were asked."""
    from iterppo.statistics import suggestion_measures as measures
    from iterppo.statistics.guardrails import Rule, guardrails, measured

    rules = {
        name: Rule(rule.action, rule.worse, rule.margin)
        for name, rule in (
            *(
                (name, getattr(config.guardrails, name))
                for name in type(config.guardrails).model_fields
            ),
            *((rule.name, rule) for rule in config.classifiers),
        )
    }
    heldout = {each.name for each in log if each.split != "train"}
    both = asked.new.keys() & asked.old.keys()
    places = sorted({place for place in both if place[0] in heldout} or both)
    flat = [
        (place[0], is_new, text)
        for place in places
        for is_new, found in ((True, asked.new), (False, asked.old))
        for text in found[place]
    ]
    if not flat:
        return []
    names, are_new, texts = zip(*flat, strict=True)
    readers: dict[str, Any] = {
        "length": measures.length,
        "question": measures.question,
        "repetition": measures.repetition,
        "abstention": measures.abstention,
        "unknown_characters": measures.unknown_characters,
        "pressure": measures.pressure(measures.load_lexicon(config.lexicon)),
    }
    active = {name for name, rule in rules.items() if rule.action != "off"}
    for rule in config.classifiers:
        if rule.name in active:
            readers[rule.name] = _classifier(rule.model, rule.label, texts)
    suggestions = measured(
        names, are_new, texts, {name: readers[name] for name in rules if name in active}
    )
    return guardrails(suggestions, rules, alpha=config.alpha)


def _classifier(model: str, label: str, texts: Sequence[str | None]) -> Any:
    from iterppo.lm.outcome_classifier import load_classifier

    different = sorted({text for text in texts if text})
    known = dict(zip(different, load_classifier(model, label=label)(different), strict=True))
    return lambda text: known.get(text, 0.0)


def _kl(
    config: EvaluateConfig,
    given: Mapping[str, Artifact],
    log: Sequence[_Logged],
    old: Policy,
    new: Policy,
) -> float | None:
    """As training has read it where it began at the old policy, else measured."""
    from iterppo.lm.off_policy import kl_per_suggestion

    manifest = given["candidate"].manifest
    began = manifest.inputs.get("policy")
    watched = manifest.metrics.get("watched_kl_kept")
    if (
        began is not None
        and began.digest == given["policy"].manifest.digest
        and watched is not None
    ):
        return float(watched)
    rows = [each.rows for each in log if each.split != "train"] or [each.rows for each in log]
    return kl_per_suggestion(new, old, rows, most=MOST_KL, seed=config.seed)


def _decision(
    config: EvaluateConfig,
    found: Sequence[Estimate],
    guarded: Sequence[Guardrail],
    given: Mapping[str, Artifact],
    warnings: Sequence[str],
    kl: float | None,
) -> dict[str, Any]:
    from iterppo.statistics.evaluation import decisive
    from iterppo.statistics.gate import decide, improvement, kl_budget, q_verdict

    chosen = decisive(found, method=config.decide_by)
    verdict = given["q"].manifest.metrics.get("verdict") if "q" in given else None
    settings = config.guardrails
    rules = [getattr(settings, name) for name in type(settings).model_fields]
    decision = decide(
        improvement=improvement(chosen, tolerance=config.tolerance),
        kl=kl_budget(kl, budget=config.kl_budget),
        verdict=q_verdict(None if verdict is None else str(verdict), least=config.least_verdict),
        guarded=guarded,
        expects_guardrails=any(each.action != "off" for each in (*rules, *config.classifiers)),
        warnings=warnings,
    )
    return {
        "gate": decision.told(),
        "kl": kl,
        "guardrails": [each.told() for each in guarded],
        "decisive": None if chosen is None else _numbers(chosen),
    }


def _numbers(each: Estimate) -> dict[str, Any]:
    return {
        "method": each.method,
        "logprobs": each.logprobs,
        "gamma": each.gamma,
        **dict(zip(("value", "value_low", "value_high"), each.value, strict=True)),
        **dict(
            zip(("difference", "difference_low", "difference_high"), each.difference, strict=True)
        ),
    }


def _row(each: Estimate, old: Policy, new: Policy) -> dict[str, Any]:
    numbers = _numbers(each)
    for name, value in numbers.items():
        if isinstance(value, float) and math.isnan(value):
            numbers[name] = None
    of_old = each.method == "behaviour"
    return numbers | {
        "policy_version": (old if of_old else new).settings.version,
        "behaviour_version": old.settings.version,
        "supported": each.supported,
        "reason": each.reason,
        "num_conversations": each.num_conversations,
        **{
            name: None if (value := getattr(each, name)) is None or math.isnan(value) else value
            for name in (
                "effective_sample_size",
                "max_weight_share",
                "share_in_range",
                "mean_ratio",
            )
        },
    }


def _summary(told: Mapping[str, Any]) -> dict[str, float | bool | str]:
    """What the manifest tells at a glance."""
    found: dict[str, float | bool | str] = {
        "gate": "ship" if told["gate"]["ship"] else "hold",
        "gate_reason": told["gate"]["reason"],
        "kl": math.nan if told["kl"] is None else told["kl"],
    }
    chosen = told["decisive"]
    if chosen is not None:
        found |= {name: value for name, value in chosen.items() if value is not None}
    return found
