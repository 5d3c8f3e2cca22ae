"""`iterppo fit-q`: trajectories@2, returns@1, policy@1 (actions@1 for fqe and lstdq, and those of
earlier rounds) -> q@1."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.artifact import (
    Artifact,
    ArtifactWriter,
    Manifest,
    fingerprint,
    open_artifact,
    paired_conversations,
)
from iterppo.config import FitQConfig
from iterppo.errors import DataError, UsageError
from iterppo.logs.censoring import fate_known_until

if TYPE_CHECKING:
    from iterppo.lm.q_fitting import Target
    from iterppo.lm.q_function import Estimate
    from iterppo.lm.q_least_squares import LeastSquares
    from iterppo.lm.q_log import Conversation, Turn
    from iterppo.lm.q_sampling import OtherActions
    from iterppo.statistics.q_diagnostics import HeldOut


def run(
    config: FitQConfig,
    *,
    trajectories: Path,
    returns: Path,
    policy: Path,
    out: Path,
    actions: Path | None = None,
    earlier: Sequence[Path] = (),
    deepspeed: Path | None = None,
) -> Manifest | None:
    """Fit Q on the training conversations; score every turn; report on the held-out ones.

    With lstd five more are fitted, each without a fifth of the training conversations, and where
    this policy made these they join the held-out ones: what the verdict says is of five times as
    many.

    Folders of `earlier` rounds, each with trajectories and returns, add their training
    conversations to the fit, and nothing else: their policies tried what the newest one no longer
    says. With lstd Q stays the newest policy's; with methods that are trained it is then that of
    all these policies together.

    A run that is killed leaves a checkpoint beside `out`, from which the same command goes on. Of
    several processes that fit together, the first one writes; the others return None.
    """
    from iterppo.lm.behaviour import behind_the_log
    from iterppo.lm.checkpoint import Checkpoint
    from iterppo.lm.policy import load_policy, model_folder, prepare_libraries
    from iterppo.lm.q_fitting import fit, is_in_part
    from iterppo.lm.q_function import QFunction, QSettings
    from iterppo.lm.q_least_squares import fit_least_squares
    from iterppo.lm.q_log import conversations_of, refuse_nothing_known
    from iterppo.lm.q_sampling import other_actions
    from iterppo.lm.team import join, leave

    prepare_libraries()
    team = join(deepspeed)
    source, paid = open_artifact(trajectories, "trajectories"), open_artifact(returns, "returns")
    behaviour = open_artifact(policy)
    inputs = {
        "trajectories": source.record(),
        "returns": paid.record(),
        "policy": behaviour.record(),
    }
    before = [
        (
            open_artifact(folder / "trajectories", "trajectories"),
            open_artifact(folder / "returns", "returns"),
        )
        for folder in earlier
    ]
    for number, (log, paid_then) in enumerate(before):
        _refuse_other_returns(paid, paid_then)
        inputs |= {
            f"earlier {number} trajectories": log.record(),
            f"earlier {number} returns": paid_then.record(),
        }
    asked: str | None = None
    if config.reads_actions and actions is not None:
        of_policy = open_artifact(actions, "actions")
        inputs["actions"] = of_policy.record()
        version = of_policy.manifest.metrics.get("policy_version")
        asked = None if version is None else str(version)
    if config.reads_actions and earlier:
        raise UsageError(
            f"fit-q: the method {config.method} asks what the policy would do in every state, and "
            "actions are of one round. Leave --earlier out, or ingest the logs together."
        )
    if config.reads_actions and actions is None:
        raise UsageError(
            f"fit-q: the method {config.method} needs what the policy would do next. Run: iterppo "
            "actions, or name --actions."
        )
    if config.is_closed_form and deepspeed is not None:
        raise UsageError(
            f"fit-q: the method {config.method} trains nothing that several processes could share. "
            "Leave --deepspeed out."
        )
    credited = paid.manifest.config.get("rewards") == "credit"
    if credited and config.method != "mc" and config.output == "bce":
        raise UsageError(
            f"fit-q: {config.method} adds a reward of credit and Q of the next state, which may "
            "exceed 1, and the loss bce needs [0, 1]. Add --set fit-q.loss=squared"
        )
    gamma = float(paid.manifest.config["gamma"])
    writing: AbstractContextManager[ArtifactWriter | None] = nullcontext()
    if team.leads:
        writing = ArtifactWriter(out, kind="q", stage="fit-q", config=config, inputs=inputs)
    with writing as writer:
        loaded = load_policy(policy)
        q = QFunction.from_policy(
            model_folder(policy),
            QSettings(loss=config.output, max_tokens=config.max_tokens, members=config.members),
            seed=config.seed,
        )
        q.prepare(config)
        conversations, *of_earlier = [
            list(
                conversations_of(
                    paired_conversations(log, paid_then),
                    q.renderer,
                    system_prompt=loaded.settings.system_prompt,
                    max_tokens=config.max_tokens,
                    fate_known_until=fate_known_until(log.manifest.config),
                    credited=credited,
                )
            )
            for log, paid_then in [(source, paid), *before]
        ]
        own, learned = (
            [c for c in log if c.split == "train" and is_in_part(c.conversation_id, config)]
            for log in (conversations, chain.from_iterable(of_earlier))
        )
        train = [*own, *learned]
        _refuse_twice(train)
        # What the policy said after it was trained, its backbone has not seen. Where Q's heads are
        # fitted without it as well, it tells of Q as the held-out conversations do.
        apart = [
            c
            for c in own
            if config.method == "lstd" and not credited and c.is_of(loaded.settings.version)
        ]
        checkpoint = Checkpoint(
            out.parent / f".{out.name}.checkpoint.safetensors",
            key=fingerprint("fit-q", config.model_dump(mode="json", by_alias=True), inputs),
            every=config.checkpoint_steps,
        )
        following = _next_actions(actions) if actions and config.reads_actions else None
        lambda_ = config.lambda_ if config.method == "td-lambda" else 0.0

        def sweep() -> list[Target]:
            from iterppo.lm.q_log import next_values

            return [
                target
                for c, values in zip(train, next_values(q, train, following), strict=True)
                for target in c.bootstrapped(values, gamma=gamma, lambda_=lambda_)
            ]

        solved: LeastSquares | None = None
        try:
            refuse_nothing_known(own, max_tokens=config.max_tokens)
            if config.is_closed_form:
                solved = fit_least_squares(
                    q,
                    own,
                    config,
                    gamma=gamma,
                    actions=following,
                    earlier=learned,
                    split_by=str(source.manifest.config.get("split_by", "conversation")),
                    leave_out=bool(apart),
                )
                told: dict[str, Any] = {"ridge": solved.ridge, "errors": solved.errors}
            else:
                fitted = fit(
                    q,
                    [target for c in train for target in c.monte_carlo()],
                    config,
                    sweep=None if config.method == "mc" else sweep,
                    checkpoint=checkpoint,
                    deepspeed=deepspeed,
                )
                told = {
                    "loss": fitted.losses,
                    "validation": fitted.validation,
                    "best_epoch": fitted.best_epoch,
                    "sweeps": fitted.sweeps,
                }
        except ValueError as error:
            raise DataError(f"{returns}: {error}.") from None
        q.finish()
        leave()
        if writer is None:
            return None
        _count(writer, conversations)
        if learned:
            writer.count("turns_earlier", sum(len(turns) for c in learned for turns in c.turns))
        segments = [segment for c in conversations for segment in c.segments]
        estimates = iter(q.estimates(segments, what="fit-q: scoring"))
        scored = [[next(estimates) for _ in c.segments] for c in conversations]
        writer.write(_rows(conversations, scored))
        others = other_actions(q, loaded, conversations, config)
        left_out: list[tuple[Conversation, list[list[Estimate]]]] = []
        if solved is not None and solved.left_out:
            left_out = list(zip(apart, solved.left_out_estimates(q, apart), strict=True))
        metrics = _diagnose(conversations, scored, left_out, others, config)
        metrics["fit"] = {"method": config.method} | _range_of_returns(train) | told
        # In closed form V̂ is of this round's log, and what an action led to is nobody's.
        whose = conversations if config.is_closed_form else [*conversations, *learned]
        metrics["behaviour"] = behind_the_log(whose, loaded, config, asked=asked)
        metrics["coverage"] = _coverage(train, others, config)
        writer.write_json("metrics.json", metrics)
        writer.metrics.update(_summary(metrics))
        q.save(writer.folder / "model")
    checkpoint.remove()
    return writer.manifest


def _refuse_other_returns(paid: Artifact, paid_then: Artifact) -> None:
    """Returns of different kinds are no targets of one Q."""
    for name in ("gamma", "rewards"):
        now, then = (each.manifest.config.get(name) for each in (paid, paid_then))
        if now != then:
            raise UsageError(
                f"fit-q: {paid_then.path} was computed with {name} {then}, and {paid.path} with "
                f"{now}. Compute them alike, or leave that round out of --earlier."
            )


def _refuse_twice(conversations: Sequence[Conversation]) -> None:
    names = Counter(c.conversation_id for c in conversations)
    name, times = max(names.items(), key=lambda one: one[1], default=("", 0))
    if times > 1:
        raise DataError(
            f"fit-q: conversation {name} is in {times} of the rounds. Name rounds with logs of "
            "their own in --earlier."
        )


def _next_actions(actions: Path) -> dict[tuple[str, int], list[str]]:
    found: dict[tuple[str, int], list[str]] = {}
    for row in open_artifact(actions, "actions").rows():
        found.setdefault((row["conversation_id"], row["turn"]), []).append(row["action"] or "")
    return found


def _count(writer: ArtifactWriter, conversations: Sequence[Conversation]) -> None:
    for c in conversations:
        writer.count("turns", len(c.rows))
        writer.count("turns_without_action", c.num_without_action)
        writer.count("turns_too_long", c.num_too_long)
        writer.count("turns_scored", sum(len(turns) for turns in c.turns))
        known = sum(turn.return_ is not None for turns in c.turns for turn in turns)
        writer.count(f"turns_{c.split}_with_return", known)


def _rows(
    conversations: Sequence[Conversation], scored: Sequence[Sequence[Sequence[Estimate]]]
) -> Iterator[dict[str, Any]]:
    for c, found in zip(conversations, scored, strict=True):
        for turns, estimates in zip(c.turns, found, strict=True):
            for turn, estimate in zip(turns, estimates, strict=True):
                yield {
                    "conversation_id": c.conversation_id,
                    "turn": turn.row["turn"],
                    "q": estimate.q,
                    "q_spread": estimate.spread,
                    "return": turn.return_,
                    "weight": 0.0 if turn.return_ is None else turn.weight,
                    "split": c.split,
                    "v": estimate.v,
                }


def _diagnose(
    conversations: Sequence[Conversation],
    scored: Sequence[Sequence[Sequence[Estimate]]],
    left_out: Sequence[tuple[Conversation, Sequence[Sequence[Estimate]]]],
    others: OtherActions | None,
    config: FitQConfig,
) -> dict[str, Any]:
    """Diagnostics of both splits, against baselines of the training conversations. With those held
    out stand the training conversations that a Q was fitted without, as that Q scores them; the
    baselines have seen them."""
    import numpy as np

    from iterppo.statistics.q_diagnostics import SampledActions, diagnose

    sampled = None
    if others is not None:
        sampled = SampledActions(np.array(others.values), np.array(others.lengths), others.units)
    flat = list(_flat(zip(conversations, scored, strict=True)))
    known = [
        (turn.row["turn"], turn.weight, turn.return_)
        for c, turn, _ in flat
        if c.split == "train" and turn.return_ is not None and turn.weight > 0
    ]
    mass: dict[int, list[float]] = {}
    for number, weight, paid in known:
        sums = mass.setdefault(number, [0.0, 0.0])
        sums[0] += weight * paid
        sums[1] += weight
    constant = sum(paid for paid, _ in mass.values()) / sum(weight for _, weight in mass.values())
    metrics = {
        split: diagnose(
            _held_out([*(each for each in flat if each[0].split == split), *more]),
            constant=constant,
            turn_means={number: paid / weight for number, (paid, weight) in mass.items()},
            sampled=sampled if split == "heldout" else None,
            samples=config.bootstrap_samples,
            seed=config.seed,
        )
        for split, more in (("heldout", list(_flat(left_out))), ("train", []))
    }
    metrics["heldout"]["num_conversations_left_out"] = sum(_tells(c) for c, _ in left_out)
    return metrics


def _flat(
    scored: Iterable[tuple[Conversation, Sequence[Sequence[Estimate]]]],
) -> Iterator[tuple[Conversation, Turn, Estimate]]:
    for c, found in scored:
        for turns, estimates in zip(c.turns, found, strict=True):
            for turn, estimate in zip(turns, estimates, strict=True):
                yield c, turn, estimate


def _tells(c: Conversation) -> bool:
    """Whether a return of it is known, and counts."""
    return any(t.return_ is not None and t.weight > 0 for turns in c.turns for t in turns)


def _range_of_returns(train: Sequence[Conversation]) -> dict[str, float]:
    """Of what Q was fitted on: no policy can be worth less or more."""
    turns = (turn for c in train for each in c.turns for turn in each)
    known = [t.return_ for t in turns if t.return_ is not None and t.weight > 0]
    return {"return_min": min(known), "return_max": max(known)}


def _coverage(
    train: Sequence[Conversation], others: OtherActions | None, config: FitQConfig
) -> dict[str, Any] | None:
    """Whether Q was fitted on anything like what the policy would say; None: nobody asked it."""
    from iterppo.statistics.coverage import coverage

    if others is None:
        return None
    logged = [
        (turn.row["customer"] or "", turn.action)
        for c in train
        for turns in c.turns
        for turn in turns
    ]
    return coverage(
        others.customers,
        others.texts,
        others.units,
        logged,
        samples=config.bootstrap_samples,
        seed=config.seed,
    )


def _held_out(flat: Sequence[tuple[Conversation, Turn, Estimate]]) -> HeldOut:
    from iterppo.statistics.q_diagnostics import HeldOut

    rows = [turn.row for _, turn, _ in flat]
    return HeldOut(
        conversation_id=[c.conversation_id for c, _, _ in flat],
        turn=[row["turn"] for row in rows],
        state=[turn.state_key for _, turn, _ in flat],
        matched=[(row["turn"], row["customer"]) for row in rows],
        action=[turn.action for _, turn, _ in flat],
        q=[estimate.q for *_, estimate in flat],
        state_value=[estimate.v for *_, estimate in flat],
        return_=[turn.return_ for _, turn, _ in flat],
        weight=[turn.weight for _, turn, _ in flat],
        segments={
            name: [row[name] for row in rows] for name in ("adoption", "policy_version", "persona")
        },
        unit=[c.unit for c, *_ in flat],
    )


def _summary(metrics: Mapping[str, Any]) -> dict[str, float | bool | str]:
    """What the manifest tells at a glance."""
    heldout = metrics["heldout"]
    names = (
        *(f"explained_variance{end}" for end in ("", "_low", "_high")),
        "explained_variance_over_turn_means",
        "explained_variance_over_state_only",
        "explained_variance_over_state_only_low",
        "auc",
        "calibration_error",
        "discrimination",
        "action_share",
    )
    found: dict[str, float | bool | str] = {
        "verdict": heldout["verdict"],
        "verdict_reason": heldout["verdict_reason"],
        "better_than_constant": heldout["better_than_constant"],
        "share_other_policies": metrics["behaviour"]["share_other_policies"],
        "share_unknown_policies": metrics["behaviour"]["share_unknown_policies"],
        "conversations_left_out": float(heldout["num_conversations_left_out"]),
    }
    for name in ("best_epoch", "ridge", "return_min", "return_max"):
        if name in metrics["fit"]:
            found[name] = float(metrics["fit"][name])
    for name in names:
        value = heldout[name]
        found[f"heldout_{name}"] = math.nan if value is None else value
    if heldout["sampled_q_mean"] is not None:
        found["sampled_q_mean"] = heldout["sampled_q_mean"]
    if metrics["coverage"] is not None:
        found["coverage"] = metrics["coverage"]["support"]
    if metrics["behaviour"]["share_personas"] > 0:
        found["share_personas"] = metrics["behaviour"]["share_personas"]
        found["evaluates"] = metrics["behaviour"]["evaluates"]
    return found
