"""Random conversations and policies for the theorems."""

from typing import Any

import numpy as np

from iterppo.rl.theory import DecisionProcess

Array = np.ndarray[Any, Any]


def random_process(
    random: np.random.Generator, *, num_states: int, num_actions: int, gamma: float
) -> DecisionProcess:
    """A sparse outcome, and an end without one after some of the turns."""
    outcome_SA = random.beta(0.4, 3, (num_states, num_actions))
    ends_SA = random.uniform(0, 0.3, (num_states, num_actions))
    where_SAS = random.dirichlet(np.full(num_states, 0.4), (num_states, num_actions))
    next_SAS = ((1 - outcome_SA) * (1 - ends_SA))[..., None] * where_SAS
    return DecisionProcess(outcome_SA, next_SAS, gamma)


def random_policy(
    random: np.random.Generator, *, num_states: int, num_actions: int, evenness: float = 1.0
) -> Array:
    """Positive everywhere, as a language model's is; the less even, the surer of some action."""
    policy_SA = random.dirichlet(np.full(num_actions, evenness), num_states) + 1e-6
    return np.asarray(policy_SA / policy_SA.sum(axis=1, keepdims=True))
