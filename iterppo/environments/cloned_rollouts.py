"""Q^π(s, a) of any assistant, by playing on from copies of a live environment.

    (s, a) -> M copies, reseeded -> a, then π to the end -> G^1 … G^M -> mean, standard error

What exact solutions are to scripted policies, this is to all others, a language model's among them.
The copies of all pairs wait for the assistant together, so that its batches stay full to the end.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from iterppo.environments.episodes import Assistant, Episode, Suggestion, TurnSoFar
from iterppo.environments.protocol import CloneableEnvironment, Environment, Observation
from iterppo.errors import UsageError
from iterppo.logs.splits import unit_hash


@dataclass(frozen=True)
class ClonedValue:
    """An estimate of Q^π(s, a)."""

    mean: float
    """Mean discounted return, in units of the reward."""
    standard_error: float
    """Of the mean, in the same units; not a number where there was one continuation only."""
    num_unfinished: int
    """Continuations that were still open after `max_turns`. Their outcome counts as none, so the
    mean is too low by at most `γ ** max_turns` times their share."""


def cloned_values(
    environments: Sequence[Environment],
    turns: Sequence[Sequence[TurnSoFar]],
    actions: Sequence[str | None],
    assistant: Assistant,
    *,
    gamma: float,
    rollouts: int,
    max_turns: int,
    seed: int,
    parallel: int = 256,
) -> list[ClonedValue]:
    """Estimate Q^π(s, a) of N pairs.

        G = Σ_j γ^j r_{i+j+1},    r_{i+j+1} = 1 where o_{i+j+1} is first true,    a_i = a

    The environments are copied, never stepped: for several actions in one state name the same
    environment several times. What a copy keeps of the past is the environment's to decide: the
    shop's keeps its customer, so this is the value of a hidden state; a `BelievedShop` draws one
    that the conversation allows, and this is the value of what a log shows.

    Args:
        environments: At the state s of each pair, waiting for a suggestion.
        turns: The conversation that led to it, as an assistant sees it; its last turn waits.
        actions: a of each pair; None: the assistant abstains.
        assistant: π, which suggests after a.
        gamma: Discount per turn, in [0, 1].
        rollouts: M, continuations per pair.
        max_turns: A continuation that is still open after so many turns, a's included, is given up.
        seed: Of the continuations, which are independent of one another. How many are held together
            changes none of them, unless it changes what the assistant says.
        parallel: Continuations that are held together, and the most that the assistant is shown at
            once.

    Returns:
        An estimate per pair.

    Raises:
        ValueError: If the three sequences differ in length, or a number is out of its range.
        UsageError: If an environment cannot be cloned.
    """
    if not len(environments) == len(turns) == len(actions):
        raise ValueError(
            f"{len(environments)} environments, {len(turns)} conversations and {len(actions)} "
            "actions are not one of each per pair"
        )
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is a discount in [0, 1], is {gamma}")
    if min(rollouts, max_turns, parallel) < 1:
        raise ValueError(
            f"rollouts {rollouts}, max_turns {max_turns} and parallel {parallel} are at least 1"
        )
    for number, history in enumerate(turns):
        if not history:
            raise ValueError(f"conversation {number} has no turn that waits for a suggestion")
    returns: list[list[float]] = [[] for _ in environments]
    num_unfinished = [0] * len(environments)
    pending = deque((pair, rollout) for pair in range(len(turns)) for rollout in range(rollouts))
    held: list[Episode] = []
    while pending or held:
        begun: list[Episode] = []
        while pending and len(held) + len(begun) < parallel:
            pair, rollout = pending.popleft()
            copy_seed = int(unit_hash(f"{pair}/{rollout}", seed=seed) * 2**53)
            copy = _clone(environments[pair], copy_seed)
            first = Observation(turns[pair][-1]["customer"], outcome=False, done=False)
            begun.append(Episode(pair, copy, first, list(turns[pair][:-1])))
        suggestions = assistant([episode.waiting() for episode in held]) if held else []
        suggestions += [Suggestion(actions[episode.number], None) for episode in begun]
        still_open = []
        for episode, suggestion in zip([*held, *begun], suggestions, strict=True):
            episode.advance(suggestion)
            num_turns = len(episode.turns) - (len(turns[episode.number]) - 1)
            after = episode.observation
            if after.outcome:
                returns[episode.number].append(gamma ** (num_turns - 1))
            elif after.done or num_turns == max_turns:
                returns[episode.number].append(0.0)
                num_unfinished[episode.number] += not after.done
            else:
                still_open.append(episode)
        held = still_open
    return [
        ClonedValue(*_mean_and_error(sample), unfinished)
        for sample, unfinished in zip(returns, num_unfinished, strict=True)
    ]


def _clone(environment: Environment, seed: int) -> Environment:
    if not isinstance(environment, CloneableEnvironment):
        raise UsageError(
            f"{type(environment).__name__} cannot be cloned, so values cannot be estimated by "
            "playing on from copies of it; give it clone(seed)"
        )
    return environment.clone(seed)


def _mean_and_error(sample: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(sample) / len(sample)
    if len(sample) == 1:
        return mean, math.nan
    squares = math.fsum((value - mean) ** 2 for value in sample)
    return mean, math.sqrt(squares / (len(sample) - 1) / len(sample))
