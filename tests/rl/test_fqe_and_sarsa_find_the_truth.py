"""Methods of evaluation on random decision processes whose Q^π is solved exactly.

The regression is a table here, so that what is tested is the targets: who evaluates whom, and with
which bias.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest

from iterppo.rl.q_targets import lambda_returns

STATES, ACTIONS, GAMMA, EPISODES, SAMPLES = 6, 3, 0.95, 2500, 4
Array = np.ndarray[Any, Any]


class Log(NamedTuple):
    """Turns of many episodes laid end to end."""

    state: Array
    action: Array
    won: Array
    is_last: Array
    is_known: Array


class Process:
    """A sparse outcome in [0, 1], an end after every turn with some probability."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.random = random
        self.wins_SA = random.beta(0.5, 4, (STATES, ACTIONS))
        self.ends_SA = random.uniform(0.05, 0.2, (STATES, ACTIONS))
        self.next_SAS = random.dirichlet(np.full(STATES, 0.4), (STATES, ACTIONS))
        self.explorer_SA = np.full((STATES, ACTIONS), 1 / ACTIONS)
        best = self.exact(self.explorer_SA).argmax(axis=1)
        self.target_SA = np.full((STATES, ACTIONS), 0.05)
        self.target_SA[np.arange(STATES), best] = 1 - 0.05 * (ACTIONS - 1)

    def exact(self, policy_SA: Array) -> Array:
        """Q = r + γ P π Q, solved."""
        stays_SAS = ((1 - self.wins_SA) * (1 - self.ends_SA))[..., None] * self.next_SAS
        chain = np.einsum("sat,tb->satb", stays_SAS, policy_SA).reshape(STATES * ACTIONS, -1)
        solved = np.linalg.solve(np.eye(len(chain)) - GAMMA * chain, self.wins_SA.ravel())
        return solved.reshape(STATES, ACTIONS)

    def log(self, policy_SA: Array, episodes: int = EPISODES, cuts: Array | None = None) -> Log:
        """Episodes under a policy; of each, the fates of the first `cuts` turns are known, and one
        turn more is seen."""
        state = self.random.integers(STATES, size=episodes)
        alive = np.arange(episodes)
        seen: list[tuple[int, int, int, int, float, bool]] = []
        number = 0
        while len(alive):
            action = self._choose(policy_SA[state[alive]])
            won = self.random.random(len(alive)) < self.wins_SA[state[alive], action]
            ends = self.random.random(len(alive)) < self.ends_SA[state[alive], action]
            rows = zip(alive, state[alive], action, won, won | ends, strict=True)
            seen += [(e, number, s, a, float(w), bool(d)) for e, s, a, w, d in rows]
            state[alive] = self._choose(self.next_SAS[state[alive], action])
            alive, number = alive[~(won | ends)], number + 1
        seen.sort()
        limit = np.full(episodes, 10**6) if cuts is None else cuts
        kept = [turn for turn in seen if turn[1] <= limit[turn[0]]]
        episode, turn, states, actions, paid, _ = (np.array(x) for x in zip(*kept, strict=True))
        known = turn < limit[episode]
        return Log(states, actions, paid, np.append(episode[1:] != episode[:-1], True), known)

    def _choose(self, probability_NK: Array) -> Array:
        drawn = self.random.random((len(probability_NK), 1))
        return np.minimum(
            (probability_NK.cumsum(axis=1) < drawn).sum(axis=1), probability_NK.shape[1] - 1
        )


def table(log: Log, targets: list[float]) -> Array:
    """The regression: the mean target of each pair."""
    values = np.array(targets)
    some = np.isfinite(values)
    total, count = np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS))
    np.add.at(total, (log.state[some], log.action[some]), values[some])
    np.add.at(count, (log.state[some], log.action[some]), 1)
    return total / np.maximum(count, 1)


def evaluate(
    process: Process, log: Log, method: str, *, lambda_: float = 0.0, sweeps: int = 30
) -> Array:
    # Monte Carlo is λ = 1: of episodes that were cut, V⁻ = 0 beyond the cut.
    settings: dict[str, Any] = {"gamma": GAMMA, "lambda_": 1.0 if method == "mc" else lambda_}
    states, actions = np.roll(log.state, -1), np.roll(log.action, -1)
    random = np.random.default_rng(0)
    sampled = np.array([random.choice(ACTIONS, SAMPLES, p=process.target_SA[s]) for s in states])
    q_SA = np.zeros((STATES, ACTIONS))
    for _ in range(1 if method == "mc" else sweeps):
        expected = q_SA[states[:, None], sampled].mean(axis=1)
        values = expected if method == "fqe" else q_SA[states, actions]
        targets = lambda_returns(
            log.won.tolist(),
            values.tolist(),
            log.is_last.tolist(),
            log.is_known.tolist(),
            **settings,
        )
        q_SA = table(log, targets)
    return q_SA


def rmse(estimate: Array, truth: Array) -> float:
    return float(np.sqrt(np.mean((estimate - truth) ** 2)))


@pytest.mark.parametrize("seed", range(5))
def test_fqe_evaluates_the_target_where_monte_carlo_evaluates_the_explorer(seed: int) -> None:
    process = Process(seed)
    log = process.log(process.explorer_SA)
    target = process.exact(process.target_SA)
    mc, fqe = evaluate(process, log, "mc"), evaluate(process, log, "fqe")

    assert (target - mc).mean() > 0.02, "the explorer does worse than the target"
    assert rmse(fqe, target) <= 0.7 * rmse(mc, target)
    assert rmse(mc, process.exact(process.explorer_SA)) < 0.5 * rmse(mc, target)


@pytest.mark.parametrize(("method", "lambda_"), [("mc", 0.0), ("sarsa", 0.0), ("sarsa", 0.8)])
@pytest.mark.parametrize("seed", range(3))
def test_on_policy_every_method_finds_the_same_truth(
    seed: int, method: str, lambda_: float
) -> None:
    process = Process(seed)
    log = process.log(process.explorer_SA)
    found = evaluate(process, log, method, lambda_=lambda_)

    assert rmse(found, process.exact(process.explorer_SA)) < 0.035


@pytest.mark.parametrize("lambda_", [0.0, 0.5])
def test_logs_that_were_cut_need_no_weights_with_targets_of_ones_own(lambda_: float) -> None:
    # Of long episodes less is known, so that those known to their end are no fair sample.
    process = Process(1)
    cuts = process.random.integers(0, 6, 10_000)
    log = process.log(process.explorer_SA, 10_000, cuts)
    truth = process.exact(process.explorer_SA)
    found = evaluate(process, log, "sarsa", lambda_=lambda_)
    naive = evaluate(process, log, "mc")

    assert abs((naive - truth).mean()) > 0.05
    assert abs((found - truth).mean()) < 0.01
    assert rmse(found, truth) < 0.03
