"""`iterppo credit`: trajectories@2, policy@1 -> credit@1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from iterppo.artifact import Artifact, ArtifactWriter, Manifest, fingerprint, open_artifact
from iterppo.config import CreditConfig
from iterppo.errors import DataError

if TYPE_CHECKING:
    import torch

    from iterppo.lm.implicit_model import Fit, Said
    from iterppo.lm.policy import Policy
    from iterppo.rl.implicit_rewards import TurnRewards

ENDS = ("", "_low", "_high")
ROUNDING = 1e-9
"""How far a sum of rewards may lie beyond [0, 1] and still be an outcome."""


class Conversation(NamedTuple):
    """A conversation of the log, as far as it is needed to the end."""

    conversation_id: str
    split: str
    rewards: list[float]
    """Of the log, by turn."""
    said: Said | None
    """None: it is censored, so that nothing is learned from it and nothing claimed."""


def run(config: CreditConfig, *, trajectories: Path, policy: Path, out: Path) -> Manifest:
    """Fit an implicit reward model on the outcomes of the training conversations; pay every turn of
    those that ended.

    A run that is killed leaves a checkpoint beside `out`, from which the same command goes on.
    """
    from iterppo.lm.checkpoint import Checkpoint
    from iterppo.lm.implicit_model import CreditSettings, all_token_logprobs, fit, save
    from iterppo.lm.policy import load_policy, prepare_libraries, use_accelerator

    prepare_libraries()
    source = open_artifact(trajectories, "trajectories")
    inputs = {"trajectories": source.record(), "policy": open_artifact(policy).record()}
    checkpoint = Checkpoint(
        out.parent / f".{out.name}.checkpoint.safetensors",
        key=fingerprint("credit", config.model_dump(mode="json", by_alias=True), inputs),
        every=config.checkpoint_steps,
    )
    with ArtifactWriter(out, kind="credit", stage="credit", config=config, inputs=inputs) as writer:
        loaded = load_policy(policy)
        use_accelerator(loaded)
        log = list(_log(source, loaded, config))
        ended = [c for c in log if c.said is not None]
        saids = [c.said for c in ended if c.said is not None]
        batch = config.tokens_per_batch
        reference = all_token_logprobs(loaded.model, saids, tokens_per_batch=batch)
        train = [number for number, c in enumerate(ended) if c.split == "train"]
        try:
            fitted = fit(
                loaded.model,
                [saids[number] for number in train],
                [reference[number] for number in train],
                config,
                checkpoint=checkpoint,
            )
        except ValueError as error:
            raise DataError(f"{trajectories}: {error}.") from None
        learned = all_token_logprobs(loaded.model, saids, tokens_per_batch=batch)
        paid = _paid(saids, reference, learned, config)
        writer.write(_rows(log, paid))
        _count(writer, log)
        metrics = _metrics(log, paid, fitted, config)
        writer.write_json("metrics.json", metrics)
        writer.metrics.update(_summary(metrics))
        settings = CreditSettings(
            beta=config.beta,
            max_tokens=config.max_tokens,
            system_prompt=loaded.settings.system_prompt,
            reference_version=loaded.settings.version,
        )
        save(loaded.model, loaded.renderer, settings, writer.folder / "model")
    checkpoint.remove()
    return writer.manifest


def _log(source: Artifact, policy: Policy, config: CreditConfig) -> Iterator[Conversation]:
    from iterppo.lm.implicit_model import said_of

    for rows in source.conversations():
        rewards = [float(row["reward"]) for row in rows]
        said = None
        if not rows[-1]["censored"]:
            said = said_of(
                rows,
                policy.renderer,
                system_prompt=policy.settings.system_prompt,
                max_tokens=config.max_tokens,
            )
            if not -ROUNDING <= said.outcome <= 1 + ROUNDING:
                raise DataError(
                    f"{source.path}: conversation {said.conversation_id!r} has the outcome "
                    f"{said.outcome:.6g}; credit is learned from outcomes in [0, 1]. Give ingest "
                    "such outcomes."
                )
        yield Conversation(rows[0]["conversation_id"], rows[0]["split"], rewards, said)


def _paid(
    saids: Sequence[Said],
    reference: Sequence[torch.Tensor],
    learned: Sequence[torch.Tensor],
    config: CreditConfig,
) -> TurnRewards:
    """Of all turns of all conversations that ended, end to end."""
    import numpy as np

    from iterppo.rl.implicit_rewards import turn_rewards

    log_ratios = [
        after.double() - before.double() for before, after in zip(reference, learned, strict=True)
    ]
    return turn_rewards(
        np.concatenate([np.zeros(0), *(each.numpy() for each in log_ratios)]),
        np.concatenate([np.zeros(0, np.int64), *(said.tokens_per_turn for said in saids)]),
        np.array([said.num_turns for said in saids], dtype=np.int64),
        np.array([said.outcome for said in saids]),
        beta=config.beta,
        normalise=config.normalise,
        temperature=config.temperature,
    )


def _rows(log: Sequence[Conversation], paid: TurnRewards) -> Iterator[dict[str, Any]]:
    import numpy as np

    places = iter(range(len(paid.reward_K)))
    for c in log:
        lengths = [0] * len(c.rewards) if c.said is None else c.said.tokens_per_turn.tolist()
        for number, (reward, length) in enumerate(zip(c.rewards, lengths, strict=True)):
            implicit = normalised = weight = None
            if c.said is not None:
                place = next(places)
                weight = float(paid.weight_K[place])
                normalised = float(paid.reward_K[place])
                implicit = float(paid.implicit_K[place]) if length else None
                if np.isnan(normalised):  # of no turn is anything known: the outcome stays put
                    normalised = reward
            yield {
                "conversation_id": c.conversation_id,
                "turn": number + 1,
                "num_tokens": length,
                "implicit_reward": implicit,
                "normalised_reward": normalised,
                "weight": None if weight is None or np.isnan(weight) else weight,
                "split": c.split,
            }


def _count(writer: ArtifactWriter, log: Sequence[Conversation]) -> None:
    for c in log:
        num_turns = len(c.rewards)
        writer.count("conversations")
        writer.count("conversations_censored", int(c.said is None))
        writer.count("turns", num_turns)
        writer.count("turns_censored", num_turns if c.said is None else 0)
        writer.count("turns_without_action", c.said.num_without_action if c.said else 0)
        writer.count("turns_too_long", c.said.num_too_long if c.said else 0)
        scored = int((c.said.tokens_per_turn > 0).sum()) if c.said else 0
        writer.count("turns_scored", scored)


def _metrics(
    log: Sequence[Conversation], paid: TurnRewards, fitted: Fit, config: CreditConfig
) -> dict[str, Any]:
    """Diagnostics of both splits, beside the base rate of the training conversations."""
    import numpy as np

    from iterppo.rl.implicit_rewards import turn_sums
    from iterppo.statistics.credit_diagnostics import diagnose_credit

    ended = [(c.split, c.said) for c in log if c.said is not None]
    num_turns_B = np.array([said.num_turns for _, said in ended], dtype=np.int64)
    logits = turn_sums(paid.implicit_K, num_turns_B).tolist()
    of = {
        split: [
            (logit, said.outcome)
            for (own, said), logit in zip(ended, logits, strict=True)
            if own == split
        ]
        for split in ("heldout", "train")
    }
    outcomes = [outcome for _, outcome in of["train"]]
    return {
        **{
            split: diagnose_credit(
                [logit for logit, _ in each],
                [outcome for _, outcome in each],
                base_rate=sum(outcomes) / len(outcomes),
                samples=config.bootstrap_samples,
                seed=config.seed,
            )
            for split, each in of.items()
        },
        "fit": {
            "loss": fitted.losses,
            "validation": [None if math.isnan(loss) else loss for loss in fitted.validation],
            "best_epoch": fitted.best_epoch,
        },
        "scale": paid.scale,
    }


def _summary(metrics: Mapping[str, Any]) -> dict[str, float | bool | str]:
    """What the manifest tells at a glance."""
    heldout = metrics["heldout"]
    names = (
        "bce",
        "bce_base_rate",
        *(f"{name}{end}" for name in ("bce_gain", "kendall_tau", "auc") for end in ENDS),
        "logit_lowest",
        "logit_highest",
        "logit_spread",
    )
    return {
        "best_epoch": float(metrics["fit"]["best_epoch"]),
        "scale": metrics["scale"],
        **{f"heldout_{n}": math.nan if heldout[n] is None else heldout[n] for n in names},
    }
