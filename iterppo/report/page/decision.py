"""Ship, test or hold: what a run says about its newest policy, and why.

    Success, Run -> Decision

A rule, not a feeling. The newest policy's own conversations decide where there are any. Without
them, the evaluation of its logs decides where there is one of this very policy. Without that,
nothing but Q speaks for it, and Q is what it was trained on: then the most that is said is that a
test is worth its while.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from iterppo.artifact import Manifest
from iterppo.report.page.about_another import about_another, own_evaluation
from iterppo.report.page.run import UNREADABLE, Round, Run
from iterppo.report.page.success import Row, Success, number, percent, points

Word = Literal["Ship", "Test", "Hold", "Nothing to decide yet"]
Sign = Literal["for", "against", "unknown"]

WORDS: dict[Sign, str] = {
    "for": "speaks for it",
    "against": "speaks against it",
    "unknown": "bear in mind",
}


@dataclass(frozen=True)
class Evidence:
    """One thing that is known, or that is not."""

    sign: Sign
    text: str


@dataclass(frozen=True)
class Decision:
    """What to do with the newest policy."""

    word: Word
    policy: str
    """π_k; empty where there is none."""
    version: str
    reason: str
    evidence: tuple[Evidence, ...]

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "decision": self.word.lower(),
            "policy": self.policy,
            "policy_version": self.version,
            "reason": self.reason,
            "evidence": [{"sign": each.sign, "text": each.text} for each in self.evidence],
        }


def decide(run: Run, success: Success) -> Decision:
    """The decision about the newest trained policy. Rounds that kept it do not take back what is
    known of it."""
    trained = [(one, policy) for one in run.numbered if (policy := _policy(one)) is not None]
    if not trained:
        return _nothing(run)
    steps = [each for each in trained if len(set(_versions(each[1]))) == 2]
    newest, manifest = (steps or trained)[-1]
    version, behaviour = _versions(manifest)
    name = run.policy_name(version)
    evidence = [*_of_q(newest), *_of_training(newest, manifest)]
    evidence += [
        Evidence("unknown", f"Round {one.name} found nothing better than {name}, and kept it.")
        for one, _ in trained[trained.index((newest, manifest)) + 1 :]
    ]
    place = own_evaluation(newest)
    evaluated = place.manifest if place is not None else None
    after = success.of_policy(version)
    before = success.of_policy(behaviour) or success.of_round(newest.name)
    word: Word = "Hold"
    if version == behaviour:
        reason = "No update was better on held-out prompts: the policy before was written again."
    elif after and before and after != before:
        word, reason, found = _by_conversations(success, *success.side_by_side(before, after))
        evidence = [*found, *evidence]
        if evaluated is not None:
            gate, why = _by_evaluation(evaluated)
            evidence.append(Evidence("for" if gate == "Ship" else "against", f"Before: {why}"))
    else:
        word, reason = _by_q(newest, manifest)
        speaks = "only Q speaks for it"
        if evaluated is not None:
            word, reason = _by_evaluation(evaluated)
            speaks = "logs of another policy speak for it, or against"
        known = _no_conversation(run, success, newest, name)
        evidence.append(Evidence("unknown", f"{known}: {speaks}."))
    evidence += [Evidence("unknown", text) for text in (*about_another(newest), *success.troubles)]
    evidence.sort(key=lambda each: list(WORDS).index(each.sign))
    return Decision(word, name, version, reason, tuple(evidence))


def _policy(one: Round) -> Manifest | None:
    place = one.whole("policy")
    return place.manifest if place is not None else None


def _versions(policy: Manifest) -> tuple[str, str]:
    """Its own, and that of the policy that it was trained from."""
    metrics = policy.metrics
    return str(metrics.get("policy_version") or ""), str(metrics.get("behaviour_version") or "")


def _no_conversation(run: Run, success: Success, newest: Round, name: str) -> str:
    """That none was held with the newest policy, as far as later logs say who held theirs."""
    later = [one.name for one in run.rounds[run.rounds.index(newest) + 1 :]]
    silent = {row.round_name for row in success.rows if not row.versions} & set(later)
    if not silent:
        return f"No conversation was held with {name} yet"
    return (
        f"No conversation is known to have been held with {name} (of round "
        f"{', '.join(sorted(silent))} some or all have no policy_version)"
    )


def _nothing(run: Run) -> Decision:
    newest = run.numbered[-1]
    for one in reversed(run.numbered):
        place = one.places.get("policy")
        if place is not None and place.manifest is None:
            return Decision(
                "Nothing to decide yet",
                "",
                "",
                f"The policy of round {one.name} cannot be read: {place.trouble}",
                (),
            )
    missing = ", ".join(name for name, _ in newest.missing())
    return Decision(
        "Nothing to decide yet",
        "",
        "",
        f"No policy was trained in this run. Round {newest.name} still lacks {missing}.",
        (),
    )


def _by_conversations(
    success: Success, before: Sequence[int], after: Sequence[int]
) -> tuple[Word, str, list[Evidence]]:
    """A difference of success rates whose whole 95 % interval lies above 0 ships."""
    one, base = ([success.rows[n] for n in rows] for rows in (after, before))
    told = success.difference(base=before, one=after)
    if "difference" not in told:
        return (
            "Hold",
            f"No conversation of {one[0].policy} has ended yet, or none of {base[0].policy}.",
            [],
        )
    difference, low, high = (told[f"difference{end}"] for end in ("", "_low", "_high"))
    rates = (
        f"{_rate(one, 'conversations')} with {one[0].policy} succeeded, and {_rate(base)} with "
        f"{base[0].policy}"
    )
    gap = f"{points(difference)} points, 95 % interval {points(low)} to {points(high)}"
    word: Word
    if not told["open"]["alike"]:
        word = "Hold"
        reason = (
            f"{rates}. Yet different shares of the two are still open, and only ended ones count: "
            "wait until fewer are open."
        )
    elif low > 0:
        word, reason = "Ship", f"{rates}: {gap}. All of it is above zero."
    elif high < 0:
        word = "Hold"
        reason = f"{rates}: {gap}. It is worse: go back to {base[0].policy}."
    else:
        word = "Hold"
        reason = (
            f"{rates}: {gap}. Zero is within it, so nothing is shown. `iterppo plan` says how "
            "many conversations would show a difference worth having."
        )
    found = _of_collection(one, base)
    shares = [success.share_of_personas(rows) for rows in (after, before)]
    if any(shares):
        text = (
            f"{percent(shares[0])} of these conversations with {one[0].policy} were held under a "
            f"persona, and {percent(shares[1])} of those with {base[0].policy}: what is compared "
            "is mixtures, not the plain policies."
        )
        found.append(Evidence("unknown", text))
    return word, reason, found


def _rate(rows: Sequence[Row], of: str = "") -> str:
    outcomes, num = (sum(row.told[name] for row in rows) for name in ("outcomes", "conversations"))
    return f"{percent(outcomes / num)} of {num} {of}".rstrip()


def _of_collection(one: Sequence[Row], base: Sequence[Row]) -> list[Evidence]:
    """How the conversations came to be, which no interval covers."""
    rounds = sorted({row.round_name for row in one})
    environments = {row.environment for row in (*one, *base)}
    if rounds == sorted({row.round_name for row in base}) and environments == {""}:
        return [
            Evidence(
                "unknown",
                f"Both policies held conversations of round {', '.join(rounds)}. Where customers "
                "were assigned by chance (`iterppo assign`) that is a fair test; `iterppo compare` "
                "also sees to sizes of arms and to customers who come back.",
            )
        ]
    if len(environments) == 1 and (environment := environments.pop()):
        return [
            Evidence(
                "unknown",
                f"The conversations were held in the environment “{environment}”: simulated "
                "customers. Success there says that the loop works, nothing about yours.",
            )
        ]
    return [
        Evidence(
            "unknown",
            "Rounds are collected one after the other. Where customers change with the season, so "
            "does success; only arms that were assigned at the same time (`iterppo assign`, "
            "`iterppo compare`) are free of that.",
        )
    ]


def _by_evaluation(manifest: Manifest) -> tuple[Word, str]:
    """What the gate of `evaluate` said, from the logs of the policy before."""
    gate = manifest.metrics.get("gate")
    reason = str(manifest.metrics.get("gate_reason") or "the evaluation notes no decision")
    return ("Ship" if gate == "ship" else "Hold"), f"By the gate on logs: {reason}."


def _by_q(one: Round, manifest: Manifest) -> tuple[Word, str]:
    metrics = manifest.metrics
    name = "the policy before"
    if _verdict(one)[0] == "noise":
        return "Hold", "Q was found to be noise, and Q is all that this policy was trained on."
    if metrics.get("kept_update") == 0:
        return "Hold", f"No update was better than {name} on held-out prompts, so it was kept."
    gain = watched_gain(one)
    if gain is None:
        return "Test", "It was trained without being watched: a test alone can tell."
    _, low, _ = gain
    told = f"{_gain_text(gain)} discounted outcomes"
    if not low > 0:
        return "Hold", f"On held-out prompts Q does not prefer it to {name}: {told}."
    return (
        "Test",
        f"On held-out prompts Q prefers it to {name} by {told}. Q is what it was trained on: give "
        "it to a share of the customers, and compare.",
    )


def _gain_text(gain: tuple[float, float, float]) -> str:
    value, low, high = (number(each, "+") for each in gain)
    return f"{value} [{low}, {high}]"


def _of_q(one: Round) -> list[Evidence]:
    verdict, why = _verdict(one)
    if not verdict:
        return []
    sign: Sign = "for" if verdict == "usable" else "against"
    return [Evidence(sign, f"Q, its reward, is {verdict}. {why}".strip())]


def _verdict(one: Round) -> tuple[str, str]:
    place = one.whole("q")
    if place is None or place.manifest is None:
        return "", ""
    metrics = place.manifest.metrics
    return str(metrics.get("verdict") or ""), str(metrics.get("verdict_reason") or "")


def _of_training(one: Round, manifest: Manifest) -> list[Evidence]:
    """What the held-out prompts said, and whether the step had to be stopped."""
    metrics = manifest.metrics
    found = []
    gain = watched_gain(one)
    if gain is not None:
        _, low, _ = gain
        text = f"Q on held-out prompts: {_gain_text(gain)}"
        best = metrics.get("best_of_q")
        kept = metrics.get("watched_q_kept")
        if isinstance(best, float) and isinstance(kept, float):
            text += (
                f"; the best of {metrics.get('best_of_n', 0):g} suggestions of the policy before "
                f"would reach {best:.3f}, this one {kept:.3f}"
            )
        found.append(Evidence("for" if low > 0 else "against", f"{text}."))
    if metrics.get("stopped"):
        found.append(Evidence("against", f"Training was stopped early: {metrics['stopped']}."))
    budget, kept_kl = manifest.config.get("kl_budget"), metrics.get("watched_kl_kept")
    if isinstance(kept_kl, float):
        text = f"Distance from the policy before: {kept_kl:z.2f} nat of KL per suggestion"
        text += f", of {budget:g} that were allowed." if budget else "."
        found.append(Evidence("for" if not budget or kept_kl <= budget else "against", text))
    return found


def watched_gain(one: Round) -> tuple[float, float, float] | None:
    """Mean of Q̂(kept) − Q̂(first) over the watched prompts, by the judge where there is one, with
    its 95 % interval (paired, Student's t, prompts taken as independent); None where it is not
    known."""
    place = one.whole("policy")
    if place is None or place.manifest is None:
        return None
    try:
        readings = read_watch(place.path)["readings"]
        kept = place.manifest.metrics.get("kept_update")
        key = "q_P" if readings[0]["judge_P"] is None else "judge_P"
        last = next(one for one in readings if one["update"] == kept)
        change_P = np.subtract(last[key], readings[0][key])
    except (*UNREADABLE, IndexError, StopIteration):
        return None
    mean, num = float(change_P.mean()), len(change_P)
    if num < 2:
        return None
    half = float(stats.t.ppf(0.975, num - 1) * change_P.std(ddof=1) / math.sqrt(num))
    return mean, mean - half, mean + half


def read_watch(folder: Path) -> Mapping[str, Any]:
    """`watch.json` of a policy artifact."""
    found: Mapping[str, Any] = json.loads((folder / "watch.json").read_text(encoding="utf-8"))
    return found
