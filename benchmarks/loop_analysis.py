"""Where the improvement of a round of `benchmarks.loop` is lost: in Q, or in the policy step.

    python -m benchmarks.loop_analysis [--work runs/loop] [--seed 0] [--method ppo]

π_k is a language model, whose exact Q nobody has; but what it suggests after each kind of reply on
each turn can be counted in its log, and of such a policy the shop's Q is exact. In held-out states,
one of each conversation, with one wording of everything that can be said to the business:

    spread    √ E_π A², the advantages of the exact Q: what there is to be gained at all
    ranking   correlation of the advantages of Q̂ with those
    could     the same of a Q̂ that the shop's own sufficient statistic is shown in the place of the
              text, by the same least squares from the same logs (`benchmarks.visible_q`)
    exact     the one-step gain E_π' A of the best policy that is as far from π_k as π_{k+1} is (KL
              per suggestion), if it were made of the exact Q: π' ∝ π exp(Q / β)
    of_q      the same made of Q̂, its gain counted in the exact Q
    of_step   what π_{k+1} itself gains in these states, in the exact Q

The loss from exact to of_q is Q̂'s error, from there to of_step the policy step's. KL of π_{k+1} is
told of tokens, so of acts it is less: the first two are upper bounds. gain is the difference of
the success rates of both policies, over whole conversations. `return` is the mean of the log and,
beside it, the counted policy's exact value: how good the counting is.

The last line printed is a JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.loop_rounds import success
from benchmarks.visible_q import SAYABLE, VisibleQ
from iterppo.artifact import open_artifact, read_manifest
from iterppo.environments.shop_language import reply_type, sayings
from iterppo.environments.shop_solution import ShopSolution, act_of
from iterppo.lm.generation import sample, seed_sampling
from iterppo.lm.policy import load_policy, prepare_libraries
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import decisions

Array = np.ndarray[Any, Any]
GAMMA = 0.99
STATES = 300
SAMPLES = 4
SEEN_ENOUGH = 20
"""Suggestions after a kind of reply on a turn, below which the turn is not looked at."""


class Counted:
    """A policy by the type of the customer's last message and the turn, as its log shows it."""

    def __init__(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Of rows of trajectories."""
        self._counts: dict[Any, Counter[Any]] = defaultdict(Counter)
        for turns in conversations:
            for row in turns:
                reply, act = reply_type(row["customer"]), act_of(row["suggestion"])
                for key in ((reply, row["turn"]), reply, None):
                    self._counts[key][act] += 1

    def __call__(self, reply: str, turn: int) -> dict[Any, float]:
        """Probability of each act."""
        for key in ((reply, turn), reply, None):
            counts = self._counts[key]
            if counts.total() >= SEEN_ENOUGH or key is None:
                return {act: number / counts.total() for act, number in counts.items()}
        raise AssertionError


def main() -> None:
    """Look at every round that has a next policy."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.loop_analysis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path("runs/loop"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="ppo")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare_libraries()
    folder = options.work / str(options.seed)
    rounds = sorted(folder.glob(f"{options.method}/*/policy/manifest.json"))
    found = []
    before = folder / "start" / "policy"
    for manifest in rounds:
        place = manifest.parent.parent
        found.append(of_round(place, before))
        before = place / "policy"
        print(f"{place}: " + ", ".join(f"{name} {value}" for name, value in found[-1].items()))
    print(json.dumps(found))


def of_round(place: Path, before: Path) -> dict[str, float]:
    """One round: its log, its Q, and the policy that came of it."""
    conversations = conversations_of(place)
    counted = Counted(conversations)
    solution = ShopSolution(counted, gamma=GAMMA)
    states = states_of([c for c in conversations if c[0]["split"] == "heldout"])
    exact_SA = np.array(
        [[solution.value(turns, text) for text in texts] for turns, texts in states]
    )
    policy_SA = _probabilities(counted, states)
    q = QFunction.load(place / "q" / "model")
    seen = [turns for turns, _ in states]
    prompts = prompts_of(before, seen)
    q_SA = np.array(
        [
            q([prompt] * len(texts), texts)
            for prompt, (_, texts) in zip(prompts, states, strict=True)
        ]
    )
    visible = VisibleQ(
        _trained_on(conversations),
        _trained_on([turns for folder in _before(place) for turns in conversations_of(folder)]),
        gamma=GAMMA,
    )
    visible_SA = np.array([[visible(turns, text) for text in texts] for turns, texts in states])
    kl = float(read_manifest(place / "policy").metrics["watched_kl_kept"])
    several = [[one for one in each for _ in range(SAMPLES)] for each in (seen, prompts)]
    first, after = (
        of_policy(folder, *several, solution, q)[0] for folder in (before, place / "policy")
    )
    now, later = (outcomes / held for outcomes, held in map(success, (place, _next(place))))
    advantage_SA = exact_SA - (policy_SA * exact_SA).sum(axis=1, keepdims=True)
    spread = float(np.sqrt((policy_SA * advantage_SA**2).sum() / len(states)))
    values = [solution.state_value(c[:1]) for c in conversations]
    logged = [GAMMA ** (len(c) - 1) * sum(row["reward"] for row in c) for c in conversations]
    return {
        name: round(float(value), 4)
        for name, value in {
            "spread": spread,
            "ranking": _correlation(policy_SA, advantage_SA, q_SA),
            "could": _correlation(policy_SA, advantage_SA, visible_SA),
            "kl": kl,
            "exact": (tilted(policy_SA, exact_SA, kl) * advantage_SA).sum(axis=1).mean(),
            "of_q": (tilted(policy_SA, q_SA, kl) * advantage_SA).sum(axis=1).mean(),
            "of_step": after - first,
            "gain": later - now,
            "return": np.mean(logged),
            "return_of_counted": np.mean(values),
        }.items()
    }


def _correlation(policy_SA: Array, advantage_SA: Array, q_SA: Array) -> float:
    """Under π, of advantages with those of another Q."""
    other_SA = q_SA - (policy_SA * q_SA).sum(axis=1, keepdims=True)
    both = (policy_SA * advantage_SA * other_SA).sum()
    squares = (policy_SA * advantage_SA**2).sum() * (policy_SA * other_SA**2).sum()
    return float(both / np.sqrt(squares))


def conversations_of(folder: Path) -> list[list[dict[str, Any]]]:
    """Of a round, as rows of trajectories."""
    source = open_artifact(folder / "trajectories", "trajectories")
    return [list(turns) for turns in source.conversations()]


def _trained_on(
    conversations: Sequence[list[dict[str, Any]]],
) -> list[list[dict[str, Any]]]:
    return [turns for turns in conversations if turns[0]["split"] == "train"]


def _before(place: Path) -> list[Path]:
    """The script and the rounds before."""
    rounds = [place.parent / f"{k:03d}" for k in range(int(place.name))]
    return [place.parent / "script", *rounds]


def tilted(policy_SA: Array, q_SA: Array, kl: float) -> Array:
    """π exp(Q / β) / Z with the β at which the mean KL from π is as given, or all that there is."""
    low, high = 1e-5, 1e2  # of β; KL falls with it
    for _ in range(60):
        beta = (low * high) ** 0.5
        logits_SA = (
            np.log(np.maximum(policy_SA, 1e-300)) + (q_SA - q_SA.max(1, keepdims=True)) / beta
        )
        weight_SA = np.exp(logits_SA - logits_SA.max(axis=1, keepdims=True))
        new_SA = weight_SA / weight_SA.sum(axis=1, keepdims=True)
        ratio_SA = np.log(np.maximum(new_SA, 1e-300) / np.maximum(policy_SA, 1e-300))
        if (new_SA * ratio_SA).sum(axis=1).mean() > kl:
            low = beta
        else:
            high = beta
    return np.asarray(new_SA)


def states_of(
    conversations: Sequence[Sequence[Mapping[str, Any]]],
) -> list[tuple[Sequence[Mapping[str, Any]], list[str]]]:
    """A state of each conversation at random, as its turns so far; one wording each of all that can
    be said there."""
    random = Random("states")
    found = []
    for turns in random.sample(list(conversations), min(STATES, len(conversations))):
        texts = ["" if act is None else random.choice(sayings(*act)) for act in SAYABLE]
        found.append((turns[: random.randint(1, len(turns))], texts))
    return found


def _probabilities(counted: Counted, states: Sequence[tuple[Any, Any]]) -> Array:
    """(S, A), of what can be said; text that nobody understands is left out."""
    rows = []
    for turns, _ in states:
        probabilities = counted(reply_type(turns[-1]["customer"]), len(turns))
        rows.append([probabilities.get(act, 0.0) for act in SAYABLE])
    policy_SA = np.array(rows) + 1e-6
    return np.asarray(policy_SA / policy_SA.sum(axis=1, keepdims=True))


def prompts_of(policy: Path, states: Sequence[Sequence[Mapping[str, Any]]]) -> list[Any]:
    """States as the policy reads them."""
    system_prompt = load_policy(policy).settings.system_prompt
    return [list(decisions(turns, system_prompt=system_prompt))[-1].state for turns in states]


def of_policy(
    folder: Path, turns: Sequence[Any], prompts: Sequence[Any], solution: ShopSolution, q: QFunction
) -> Array:
    """Means of the exact Q and of Q̂ over what a policy says in states, given as their turns and as
    prompts."""
    policy = load_policy(folder)
    policy.model.eval()
    seed_sampling(0, call=0)
    texts = [one.text for one in sample(policy, prompts)]
    exact = [solution.value(*each) for each in zip(turns, texts, strict=True)]
    return np.array([np.mean(exact), np.mean(q(prompts, [text or "" for text in texts]))])


def _next(place: Path) -> Path:
    return place.parent / f"{int(place.name) + 1:03d}"


if __name__ == "__main__":
    main()
