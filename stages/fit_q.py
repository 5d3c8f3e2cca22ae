"""`iterppo fit-q`: trajectories@2, returns@1, policy@1 (and actions@1 for fqe) -> q@1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.artifact import Artifact, ArtifactWriter, Manifest, fingerprint, open_artifact
from iterppo.config import FitQConfig
from iterppo.errors import ArtifactError, DataError, UsageError
from iterppo.logs.censoring import fate_known_until

if TYPE_CHECKING:
    from iterppo.lm.policy import Policy
    from iterppo.lm.q_fitting import Target
    from iterppo.lm.q_function import Estimate, QFunction
    from iterppo.lm.q_log import Conversation, Turn
    from iterppo.statistics.q_diagnostics import HeldOut, SampledActions

MOST_RATIOS = 512
"""Turns on which the policy is compared with those that made the log."""


def run(
    config: FitQConfig,
    *,
    trajectories: Path,
    returns: Path,
    policy: Path,
    out: Path,
    actions: Path | None = None,
    deepspeed: Path | None = None,
) -> Manifest | None:
    """Fit Q on the training conversations; score every turn; report on the held-out ones.

    A run that is killed leaves a checkpoint beside `out`, from which the same command goes on.
    """
    from iterppo.lm.checkpoint import Checkpoint
    from iterppo.lm.policy import load_policy, model_folder, prepare_libraries
    from iterppo.lm.q_fitting import fit, is_in_part
    from iterppo.lm.q_function import QFunction, QSettings
    from iterppo.lm.q_log import conversations_of

    prepare_libraries()
    source, paid = open_artifact(trajectories, "trajectories"), open_artifact(returns, "returns")
    behaviour = open_artifact(policy)
    inputs = {
        "trajectories": source.record(),
        "returns": paid.record(),
        "policy": behaviour.record(),
    }
    if config.method == "fqe" and actions is not None:
        inputs["actions"] = open_artifact(actions, "actions").record()
    elif config.method == "fqe":
        raise UsageError(
            "fit-q: the method fqe needs what the policy would do next. Run: iterppo actions, or "
            "name --actions."
        )
    gamma = float(paid.manifest.config["gamma"])
    with ArtifactWriter(out, kind="q", stage="fit-q", config=config, inputs=inputs) as writer:
        loaded = load_policy(policy)
        q = QFunction.from_policy(
            model_folder(policy),
            QSettings(loss=config.loss, max_tokens=config.max_tokens, members=config.members),
            seed=config.seed,
        )
        q.prepare(config)
        conversations = list(
            conversations_of(
                _paired(source, paid),
                q.renderer,
                system_prompt=loaded.settings.system_prompt,
                max_tokens=config.max_tokens,
                fate_known_until=fate_known_until(source.manifest.config),
            )
        )
        _count(writer, conversations)
        train = [
            c for c in conversations if c.split == "train" and is_in_part(c.conversation_id, config)
        ]
        checkpoint = Checkpoint(
            out.parent / f".{out.name}.checkpoint.safetensors",
            key=fingerprint("fit-q", config.model_dump(mode="json", by_alias=True), inputs),
            every=config.checkpoint_steps,
        )
        following = _next_actions(actions) if actions and config.method == "fqe" else None
        lambda_ = config.lambda_ if config.method == "td-lambda" else 0.0

        def sweep() -> list[Target]:
            from iterppo.lm.q_log import next_values

            return [
                target
                for c, values in zip(train, next_values(q, train, following), strict=True)
                for target in c.bootstrapped(values, gamma=gamma, lambda_=lambda_)
            ]

        try:
            fitted = fit(
                q,
                [target for c in train for target in c.monte_carlo()],
                config,
                sweep=None if config.method == "mc" else sweep,
                checkpoint=checkpoint,
            )
        except ValueError as error:
            raise DataError(f"{trajectories}: {error}.") from None
        q.finish()
        segments = [segment for c in conversations for segment in c.segments]
        estimates = iter(q.estimates(segments))
        scored = [[next(estimates) for _ in c.segments] for c in conversations]
        writer.write(_rows(conversations, scored))
        metrics = _diagnose(
            conversations, scored, _sampled(q, loaded, conversations, config), config
        )
        metrics["fit"] = {
            "method": config.method,
            "loss": fitted.losses,
            "validation": fitted.validation,
            "best_epoch": fitted.best_epoch,
            "sweeps": fitted.sweeps,
        }
        metrics["behaviour"] = _behaviour(conversations, loaded, config)
        writer.write_json("metrics.json", metrics)
        writer.metrics.update(_summary(metrics))
        q.save(writer.folder / "model")
    checkpoint.remove()
    return writer.manifest


def _paired(
    source: Artifact, paid: Artifact
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Rows of trajectories and returns, a conversation at a time."""
    for turns, returns in zip(source.conversations(), paid.conversations(), strict=True):
        if [(t["conversation_id"], t["turn"]) for t in turns] != [
            (p["conversation_id"], p["turn"]) for p in returns
        ]:
            raise ArtifactError(
                f"{paid.path}: its turns are not those of {source.path}. Run: iterppo returns"
            )
        yield turns, returns


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


def _sampled(
    q: QFunction, policy: Policy, conversations: Sequence[Conversation], config: FitQConfig
) -> SampledActions | None:
    """What Q makes of other actions of the policy, in some held-out states."""
    import numpy as np

    from iterppo.lm.branches import branch_values
    from iterppo.lm.generation import sample, seed_sampling
    from iterppo.lm.policy import use_accelerator
    from iterppo.lm.rendering import decisions
    from iterppo.logs.splits import unit_hash
    from iterppo.statistics.q_diagnostics import SampledActions

    places = [
        (unit_hash(f"{c.conversation_id}/{index}", seed=config.seed), segment, end, c)
        for c in conversations
        if c.split == "heldout"
        for segment in c.segments
        for end, (index, _) in enumerate(segment.ends)
    ]
    places = sorted(places, key=lambda place: place[0])[: config.sampled_states]
    if not places:
        return None
    use_accelerator(policy)
    states, kept = [], []
    for _, segment, end, c in places:
        seen = list(decisions(c.rows, system_prompt=policy.settings.system_prompt))
        state = seen[segment.ends[end][0]].state
        fitted = policy.renderer.fit(state, max_tokens=policy.settings.max_prompt_tokens)
        if fitted is not None:
            states += [fitted[0]] * config.sampled_actions
            kept.append((segment, end, c))
    seed_sampling(config.seed, call=0)
    texts = iter([drawn.text or "" for drawn in sample(policy, states)])
    requests = [
        (segment, [(end, next(texts)) for _ in range(config.sampled_actions)])
        for segment, end, _ in kept
    ]
    values, lengths, owners = [], [], []
    for (_, _, c), (_, asked), found in zip(
        kept, requests, branch_values(q, requests), strict=True
    ):
        if not any(math.isnan(value) for value in found):
            values.append(found)
            lengths.append([float(len(q.renderer.text_ids(text))) for _, text in asked])
            owners.append(c.conversation_id)
    if not values:
        return None
    return SampledActions(np.array(values), np.array(lengths), owners)


def _diagnose(
    conversations: Sequence[Conversation],
    scored: Sequence[Sequence[Sequence[Estimate]]],
    sampled: SampledActions | None,
    config: FitQConfig,
) -> dict[str, Any]:
    """Diagnostics of both splits, against baselines of the training conversations."""
    from iterppo.statistics.q_diagnostics import diagnose

    flat = [
        (c, turn, estimate)
        for c, found in zip(conversations, scored, strict=True)
        for turns, estimates in zip(c.turns, found, strict=True)
        for turn, estimate in zip(turns, estimates, strict=True)
    ]
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
    return {
        split: diagnose(
            _held_out([each for each in flat if each[0].split == split]),
            constant=constant,
            turn_means={number: paid / weight for number, (paid, weight) in mass.items()},
            sampled=sampled if split == "heldout" else None,
            samples=config.bootstrap_samples,
            seed=config.seed,
        )
        for split in ("heldout", "train")
    }


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
    )


def _behaviour(
    conversations: Sequence[Conversation], policy: Policy, config: FitQConfig
) -> dict[str, Any]:
    """How far the policy that is to be improved is from those that made the log.

    Monte Carlo returns are those of the policies that made it. `share_other_policies` is the share
    of the training turns that another policy made, or nobody knows which; `effective_share` is what
    is left of such turns, of which probabilities were logged, once each is weighted by
    π(a|s) / b(a|s): (Σ ρ)² / (n Σ ρ²).
    """
    import numpy as np

    from iterppo.lm.likelihood import action_logprobs
    from iterppo.lm.rendering import decisions

    train = [c for c in conversations if c.split == "train"]
    rows = [turn.row for c in train for turns in c.turns for turn in turns]
    other = [row for row in rows if row["policy_version"] != policy.settings.version]
    found: dict[str, Any] = {
        "policy_version": policy.settings.version,
        "share_other_policies": len(other) / len(rows) if rows else 0.0,
    }
    pairs: list[tuple[Any, str]] = []
    logged = []
    for c in train:
        for row, decision in zip(
            c.rows, decisions(c.rows, system_prompt=policy.settings.system_prompt), strict=True
        ):
            if len(pairs) == MOST_RATIOS:
                break
            if (
                row["suggestion_logprob"] is not None
                and row["policy_version"] != policy.settings.version
                and decision.action is not None
            ):
                pairs.append((decision.state, decision.action))
                logged.append(row["suggestion_logprob"])
    if pairs:
        new = np.asarray(action_logprobs(policy, pairs))
        ratio = np.exp(np.clip(new - np.asarray(logged), -30, 30))
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio):
            found["effective_share"] = float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum()))
    if config.method != "fqe" and found["share_other_policies"] > 0:
        found["advice"] = (
            "part of the log was made by other policies than the one to improve: these returns are "
            "theirs. `iterppo actions` and --set fit-q.method=fqe evaluate the policy itself."
        )
    return found


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
        "best_epoch": float(metrics["fit"]["best_epoch"]),
        "better_than_constant": heldout["better_than_constant"],
        "share_other_policies": metrics["behaviour"]["share_other_policies"],
    }
    for name in names:
        value = heldout[name]
        found[f"heldout_{name}"] = math.nan if value is None else value
    return found
