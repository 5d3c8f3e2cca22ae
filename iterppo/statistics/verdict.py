"""May a Q̂ be a reward? `usable`, `weak` or `noise`, by rule, with the number that decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from iterppo.statistics import FEWEST_CONVERSATIONS

FEWEST_PAIRS = 50
MOST_CALIBRATION_ERROR = 0.1
LEAST_ACTION_SHARE = 0.01
MOST_LENGTH_BIAS = 0.1


@dataclass(frozen=True)
class Verdict:
    """`noise`: PPO has nothing to climb, and refuses. `weak`: it may run, and may be misled."""

    verdict: Literal["usable", "weak", "noise"]
    reason: str


def judge(numbers: Mapping[str, Any]) -> Verdict:
    """The verdict on the numbers of `diagnose`; the first rule that applies gives the reason.

    What PPO must be stopped by is a Q̂ that ranks at random: it will climb it all the same. What it
    should be warned of is a Q̂ that predicts, but not through the action, or not in the right
    units. A number counts as shown where its whole 95 % interval, by conversation, lies on the
    right side: a good average from a lucky draw of conversations is what a policy step must not
    build on. An interval that could not be computed shows nothing.

    noise:
      1. Q̂ is not a number somewhere, or fewer than 20 conversations have a known return (or those
         that have are of fewer customers). Of fewer, a bootstrap interval is too narrow, and one
         lucky conversation decides.
      2. All returns are equal, or Q̂ is: there is nothing to rank.
      3. Explained variance against the constant is not shown above 0.
      4. The correlation of Q̂ with the return is not shown above 0. A Q̂ that is merely nearer to
         this split's mean than the constant passes rule 3; it ranks nothing.

    weak:
      5. Not shown better than the mean return of its turn number: it knows how late it is.
      6. Nothing shows that it can rank actions. Either of two things would: explained variance
         against the state-only model shown above 0, where not less than 1 % of Q̂'s variance is
         known to come from the action (a Q̂ that hardly looks at the action can only have won by
         being the better model of the state); or discrimination within states shown beyond what
         the state gives (1/2 in the same state), on at least 50 pairs from 20 conversations.
         With two ways through, a Q̂ that knows only the state passes in up to 5 % of cases.
      7. Calibration error above 0.1 of an outcome, and above the 97.5 % quantile of what a
         perfectly calibrated Q̂ would show with so few conversations. The lower bound and the KL
         penalty are weighed against Q̂'s own units.
      8. It prefers one length at a fixed state, and returns do not follow: G − Q̂ is correlated
         with length in the opposite direction, both shown and the latter beyond 0.1. Length is the
         first thing that PPO exploits.

    usable: otherwise.
    """
    return _noise(numbers) or _weak(numbers) or _usable(numbers)


def _noise(numbers: Mapping[str, Any]) -> Verdict | None:
    n = numbers
    if n["num_turns_q_not_finite"]:
        why = f"Q is not a finite number at {n['num_turns_q_not_finite']} held-out turns."
    elif n["num_conversations"] < FEWEST_CONVERSATIONS:
        why = (
            f"Too few held-out conversations with a known return to say: {n['num_conversations']},"
            f" and {FEWEST_CONVERSATIONS} are needed."
        )
    elif n["num_independent"] < FEWEST_CONVERSATIONS:
        why = (
            f"Too few customers with held-out conversations to say: {n['num_independent']}, and "
            f"{FEWEST_CONVERSATIONS} are needed."
        )
    elif n["return_min"] == n["return_max"]:
        why = f"Every held-out return is {n['return_min']:.3g}, so there is nothing to tell apart."
    elif n["q_min"] == n["q_max"]:
        why = f"Q is {n['q_min']:.3g} at every held-out turn, so it prefers nothing."
    elif not _above(n, "explained_variance"):
        why = (
            "Q is not shown to predict held-out returns better than a constant: explained variance "
            f"{_with_interval(n, 'explained_variance')}."
        )
    elif not _above(n, "correlation"):
        why = (
            "Held-out returns are not shown to rise with Q: correlation "
            f"{_with_interval(n, 'correlation')}."
        )
    else:
        return None
    return Verdict("noise", why)


def _weak(numbers: Mapping[str, Any]) -> Verdict | None:
    n = numbers
    error, chance = n["calibration_error"], n["calibration_error_by_chance_high"]
    if not _above(n, "explained_variance_over_turn_means"):
        why = (
            "Q is not shown better than the mean return of each turn number: explained variance "
            f"over it {_with_interval(n, 'explained_variance_over_turn_means')}."
        )
    elif not _ranks_actions(n):
        why = f"Q predicts returns, but nothing shows that it can rank actions: {_why_not(n)}."
    elif error is not None and error > max(MOST_CALIBRATION_ERROR, chance or 0.0):
        why = (
            f"Q is off by {error:.3g} of an outcome on average (calibration error; at most "
            f"{MOST_CALIBRATION_ERROR} is wanted)."
        )
    elif _exploits_length(n):
        why = (
            "At a fixed state Q prefers "
            f"{'long' if n['length_correlation'] > 0 else 'short'} actions (correlation "
            f"{n['length_correlation']:.3g}) and overrates them: what Q misses of the return is "
            f"correlated with length by {_with_interval(n, 'residual_length_correlation')}."
        )
    else:
        return None
    return Verdict("weak", why)


def _usable(numbers: Mapping[str, Any]) -> Verdict:
    if not _discriminates(numbers):
        how = (
            "over a model that sees only the state it explains "
            f"{_with_interval(numbers, 'explained_variance_over_state_only')} of the variance"
        )
    elif numbers["discrimination_matched_by"] == "state":
        how = (
            "of two different actions in one state it prefers the better one with a share of "
            f"{_with_interval(numbers, 'discrimination')}"
        )
    else:
        how = (
            "of two different actions in like states it prefers the better one with a share that "
            "is above the state-only model's by "
            f"{_with_interval(numbers, 'discrimination_gain')}"
        )
    return Verdict(
        "usable",
        f"Q predicts held-out returns (explained variance {numbers['explained_variance']:.3g}) and "
        f"can rank actions: {how}.",
    )


def _ranks_actions(n: Mapping[str, Any]) -> bool:
    return _discriminates(n) or (
        _above(n, "explained_variance_over_state_only") and not _hardly_sees_the_action(n)
    )


def _discriminates(n: Mapping[str, Any]) -> bool:
    return (
        n["discrimination_pairs"] >= FEWEST_PAIRS
        and n["discrimination_conversations"] >= FEWEST_CONVERSATIONS
        and _above(n, "discrimination_gain")
    )


def _hardly_sees_the_action(n: Mapping[str, Any]) -> bool:
    return n["action_share"] is not None and n["action_share"] < LEAST_ACTION_SHARE


def _why_not(n: Mapping[str, Any]) -> str:
    if _above(n, "explained_variance_over_state_only"):
        state = f"{n['action_share']:.2%} of its variance comes from the action"
    elif n["explained_variance_over_state_only"] is None:
        state = "there is no state-only model to compare with"
    else:
        state = (
            "explained variance over a model that sees only the state is "
            f"{_with_interval(n, 'explained_variance_over_state_only')}"
        )
    pairs = n["discrimination_pairs"]
    if n["discrimination"] is None or pairs < FEWEST_PAIRS:
        return f"{state}, and only {pairs} pairs of different actions can be compared"
    return (
        f"{state}, and in pairs of different actions its share in the right order is "
        f"{_with_interval(n, 'discrimination_gain')} above what the state alone gives"
    )


def _exploits_length(n: Mapping[str, Any]) -> bool:
    residual = n["residual_length_correlation"]
    if residual is None or abs(residual) < MOST_LENGTH_BIAS:
        return False
    return (_above(n, "length_correlation") and _below(n, "residual_length_correlation")) or (
        _below(n, "length_correlation") and _above(n, "residual_length_correlation")
    )


def _above(n: Mapping[str, Any], name: str) -> bool:
    low = n[f"{name}_low"]
    return low is not None and low > 0


def _below(n: Mapping[str, Any], name: str) -> bool:
    high = n[f"{name}_high"]
    return high is not None and high < 0


def _with_interval(n: Mapping[str, Any], name: str) -> str:
    if n[name] is None:
        return "unknown"
    if n[f"{name}_low"] is None:
        return f"{n[name]:.3g} (no interval)"
    return f"{n[name]:.3g} (95 % interval {n[f'{name}_low']:.3g} to {n[f'{name}_high']:.3g})"
