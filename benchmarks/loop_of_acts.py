"""The loop of `benchmarks.loop` without a language model: what its conversations can give.

    python -m benchmarks.loop_of_acts [--seeds N] [--rounds N] [--conversations N] [--beta B …]
                                      [--exact]

The same shop, script, rounds and number of conversations, and Q̂ by the same least squares from the
same logs. But Q̂ sees the shop's own sufficient statistic in the place of the text
(`benchmarks.visible_q`), and the policy is a table of acts, worded at random, whose step is exact:

    π_{k+1}(a | s) ∝ π_k(a | s) exp(Q̂_k(s, a) / β),        π_0 the script

What is lost here is lost for want of conversations, or of what least squares can say with these
numbers. What `benchmarks.loop` has less, its language model loses: in what its Q̂ sees, and in the
step.

`--exact`: the same steps with the exact Q^π in the place of Q̂, for every state that can be, of a
π_0 that says in each turn what the script says in it on average. No conversation is held but to
learn that; what is lost here is lost for want of rounds.

Of every round and β: success, the entropy of what is suggested and the KL of the step, in nats.
`given` is the best β's mean over the seeds. The last line printed is a JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

import numpy as np
from scipy.special import softmax

from benchmarks.visible_q import SAYABLE, VisibleQ, state_features
from iterppo.environments.shop import SCRIPTS, Shop
from iterppo.environments.shop_language import SETTINGS, reply_type, sayings
from iterppo.environments.shop_optimum import ACTS, act_values, optimal_success
from iterppo.environments.shop_solution import act_of

Array = np.ndarray[Any, Any]
GAMMA = 0.99
LEAST = 1e-4
"""Probability of what the script never says: a language model does not rule it out either."""
LOOKED_AT = 300
"""Conversations, for the KL."""


class Table:
    """A policy over `SAYABLE`."""

    def __init__(self, tilts: tuple[tuple[VisibleQ, float], ...] = ()) -> None:
        """The script, tilted by each Q̂ at its β."""
        self._tilts = tilts

    def tilted(self, q: VisibleQ, beta: float) -> Table:
        """π exp(Q̂ / β) / Z."""
        return Table((*self._tilts, (q, beta)))

    def probabilities(self, turns: list[dict[str, Any]]) -> Array:
        """(A,), in the state before the last turn's suggestion."""
        logit_A = np.log(_script(reply_type(turns[-1]["customer"]), len(turns)))
        if self._tilts:
            state_D = state_features(turns)
            logit_A = logit_A + sum(q.of_acts(state_D) / beta for q, beta in self._tilts)
        weight_A = np.exp(logit_A - logit_A.max())
        return np.asarray(np.maximum(weight_A / weight_A.sum(), np.finfo(float).tiny))


@cache
def _script(reply: str, turn: int) -> Array:
    """(A,)"""
    share: Mapping[Any, float] = SCRIPTS["mediocre"].acts(reply, turn)
    script_A = np.array([share.get(act, 0.0) for act in SAYABLE]) + LEAST
    return np.asarray(script_A / script_A.sum())


def hold(policy: Table, *, number: int, name: str) -> list[list[dict[str, Any]]]:
    """Conversations, as rows of trajectories."""
    random, found = Random(name), []
    for n in range(number):
        shop, turns = Shop(), []
        seen = shop.reset(random.getrandbits(48))
        while not seen.done:
            row = {"conversation_id": f"{name}-{n}", "customer": seen.customer}
            turns.append(row)
            (act,) = random.choices(SAYABLE, weights=policy.probabilities(turns).tolist())
            row["suggestion"] = None if act is None else random.choice(sayings(*act))
            seen = shop.step(row["suggestion"])
            row |= {"sent": seen.sent, "reward": float(seen.outcome)}
        found.append(turns)
    return found


def loop(*, rounds: int, conversations: int, beta: float, seed: int) -> list[dict[str, float]]:
    """What every round's policy was, the last one's included."""
    policy = Table()
    name = f"{seed}-{beta:g}"
    logs = hold(policy, number=conversations, name=f"{seed}-script")
    found = []
    for k in range(rounds + 1):
        log = hold(policy, number=conversations, name=f"{name}-{k}")
        is_last = k == rounds
        after = policy if is_last else policy.tilted(VisibleQ(log, logs, gamma=GAMMA), beta)
        states = [turns[: n + 1] for turns in log[:LOOKED_AT] for n in range(len(turns))]
        now_SA, next_SA = (np.stack([p.probabilities(s) for s in states]) for p in (policy, after))
        seen = {
            "success": np.mean([turns[-1]["reward"] for turns in log]),
            "entropy": -(now_SA * np.log(now_SA)).sum(axis=1).mean(),
            "kl": (next_SA * (np.log(next_SA) - np.log(now_SA))).sum(axis=1).mean(),
        }
        found.append({key: round(float(value), 4) for key, value in seen.items()})
        print(f"beta {beta:g}, seed {seed}, round {k}: {found[-1]}", flush=True)
        policy, logs = after, logs + log
    return found


def exact(*, rounds: int, beta: float, start: Sequence[Array]) -> list[float]:
    """Success of every round's policy with the exact Q^π; `start` is log π_0, for each turn (1, 1,
    A) over `ACTS`."""
    logits, found = list(start), []
    for k in range(rounds + 1):
        shares = [softmax(logit_NSA, axis=-1) for logit_NSA in logits]
        found.append(round(act_values(shares, gamma=1.0)[0], 4))
        if k < rounds:
            _, values = act_values(shares, gamma=GAMMA)
            logits = [logit + q_NSA / beta for logit, q_NSA in zip(logits, values, strict=True)]
    print(f"beta {beta:g}, exact Q: {found}", flush=True)
    return found


def average_script(number: int = 4000) -> list[Array]:
    """log of what the script says in each turn, on average: (1, 1, A) over `ACTS`."""
    count_TA = np.full((SETTINGS["max_turns"], len(ACTS)), LEAST)
    for turns in hold(Table(), number=number, name="average"):
        for n, row in enumerate(turns):
            count_TA[n, ACTS.index(act_of(row["suggestion"]))] += 1
    return [np.log(count_A / count_A.sum())[None, None] for count_A in count_TA]


def main() -> None:
    """Every β, every seed."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.loop_of_acts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--conversations", type=int, default=2000, help="of each round")
    parser.add_argument("--beta", type=float, nargs="+", default=[0.01, 0.02, 0.04])
    parser.add_argument("--exact", action="store_true", help="with the exact Q, no seeds")
    options = parser.parse_args()
    if options.exact:
        start = average_script()
        given_exactly = {
            beta: exact(rounds=options.rounds, beta=beta, start=start) for beta in options.beta
        }
        print(json.dumps({"optimum": round(optimal_success(), 4), "exact": given_exactly}))
        return
    runs = {
        beta: [
            loop(rounds=options.rounds, conversations=options.conversations, beta=beta, seed=seed)
            for seed in range(options.seeds)
        ]
        for beta in options.beta
    }
    given = max(
        (
            np.mean([[one["success"] for one in run] for run in found], axis=0).round(4).tolist()
            for found in runs.values()
        ),
        key=lambda success: success[-1],
    )
    result = {"optimum": round(optimal_success(), 4), "given": given, "runs": runs}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
