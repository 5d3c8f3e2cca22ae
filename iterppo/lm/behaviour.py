"""The policies that made a log, beside the one that is to be improved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from iterppo.config import FitQConfig
from iterppo.lm.likelihood import action_logprobs
from iterppo.lm.policy import Policy
from iterppo.lm.q_log import Conversation
from iterppo.lm.rendering import decisions

MOST_RATIOS = 512
"""Turns on which the policy is compared with those that made the log."""


def behind_the_log(
    conversations: Sequence[Conversation],
    policy: Policy,
    config: FitQConfig,
    *,
    asked: str | None = None,
) -> dict[str, Any]:
    """How far the policy that is to be improved is from those that made the log.

    Monte Carlo returns are those of the policies that made it. `share_other_policies` is the share
    of the training turns that another policy made; `share_unknown_policies` that of turns of which
    the log does not say who made them; `share_personas` that of turns that were made under a
    persona, which is another policy too; `effective_share` is what is left of all such turns, of
    which probabilities were logged, once each is weighted by
    π(a|s) / b(a|s): (Σ ρ)² / (n Σ ρ²). π is the plain policy, b(a|s) what was logged, under the
    persona. A persona is drawn before anything is said, so within its conversations the weights are
    right as they are, whatever its probability. Abstentions are left out: what was logged for one
    that was cut off at the length limit is the probability of words that the log does not have.

    `asked` is the policy whose actions fqe and lstdq evaluate: this one, or one that may take its
    place.
    """
    train = [c for c in conversations if c.split == "train"]
    rows = [turn.row for c in train for turns in c.turns for turn in turns]
    versions = [row["policy_version"] for row in rows]
    others = (version not in (None, policy.settings.version) for version in versions)
    found: dict[str, Any] = {
        "policy_version": policy.settings.version,
        "share_other_policies": _share(others, len(rows)),
        "share_unknown_policies": _share((version is None for version in versions), len(rows)),
        "share_personas": _share(map(_has_persona, rows), len(rows)),
    }
    found["evaluates"] = (
        f"{asked}, which was asked for actions"
        if config.reads_actions and asked not in (None, policy.settings.version)
        else "the plain policy"
        if config.reads_actions
        else "the mixture of personas and plain policy that made the log; "
        "--set fit-q.method=fqe (or lstdq) evaluates the plain policy"
        if found["share_personas"] > 0
        else "the policy that made the log"
    )
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
                and (row["policy_version"] != policy.settings.version or _has_persona(row))
                and decision.action
            ):
                pairs.append((decision.state, decision.action))
                logged.append(row["suggestion_logprob"])
    if pairs:
        new = np.asarray(action_logprobs(policy, pairs))
        ratio = np.exp(np.clip(new - np.asarray(logged), -30, 30))
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio):
            found["effective_share"] = float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum()))
    if not config.reads_actions:
        found |= _advice(found)
    return found


def _advice(shares: Mapping[str, Any]) -> dict[str, str]:
    """What to do where the returns are not known to be those of the policy to improve."""
    cure = "`iterppo actions` and fit-q.method fqe or lstdq evaluate the policy itself."
    found = {}
    if shares["share_other_policies"] > 0:
        found["advice"] = (
            "part of the log was made by other policies than the one to improve: these returns are "
            f"theirs. {cure}"
        )
    if shares["share_unknown_policies"] > 0:
        found["advice_unknown"] = (
            "the log does not say which policy made them, so nobody knows whose returns these are. "
            f"Write `policy_version` into the log. {cure}"
        )
    return found


def _share(flags: Iterable[bool], num: int) -> float:
    return sum(flags) / num if num else 0.0


def _has_persona(row: Mapping[str, Any]) -> bool:
    return row["persona"] is not None
