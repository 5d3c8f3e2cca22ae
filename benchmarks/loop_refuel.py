"""REFUEL in the environment itself, as what `benchmarks.loop` is held against.

    π_t holds a conversation; the customer of one of its states s, each as likely as any other, is
    copied, and π_t goes on from there once more: (s, a, o), (s, a', o')
    π_{t+1} = argmin_θ Σ (β (log π_θ/π_t (a|s) − log π_θ/π_t (a'|s)) − (o − o'))²

Regressing the relative future (Gao et al., 2024, arXiv 2410.04612; β is its 1/η): the difference
of two outcomes estimates that of two Q, and no critic is fitted. What a simulator allows and a
deployment does not: the same customer, asked twice in the same place. A pair counts as two of a
round's conversations, although the second is not held from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.loop_rounds import Deployed, PolicyAssistant, Settings, made, save
from iterppo.environments.episodes import Assistant, Episode, Suggestion, TurnSoFar
from iterppo.environments.loader import load_environment
from iterppo.environments.protocol import CloneableEnvironment, Observation
from iterppo.lm import policy as policies
from iterppo.lm.policy import Policy
from iterppo.lm.rendering import decisions
from iterppo.lm.training import minimise, right_pad
from iterppo.logs.splits import unit_hash

BETA = 0.1
"""Of two suggestions, how much more often the one leads to the outcome if it is to become e times
as likely beside the other."""
EPOCHS = 3.0
"""β and passes were best in the first round of seed 0, on 2,000 conversations afterwards: of 0.02,
0.1 and 0.5 with 1 and 3 passes, and of 0.1 with 6."""
LEARNING_RATE = 4e-4
TOKENS_PER_BATCH = 8192


@dataclass(frozen=True)
class Pair:
    """Two suggestions in one state, and how their conversations ended."""

    turns: list[TurnSoFar]
    """The state, as an assistant sees it; the last turn waits."""
    actions: tuple[str, str]
    """ "" is ∅."""
    outcomes: tuple[bool, bool]


def refuel(rounds: list[Path], deployed: Deployed, settings: Settings) -> Deployed:
    """The next policy, of as many conversations of its own as the others see."""
    out = rounds[-1] / "policy"
    made(out, lambda: _train(deployed, out, settings, k=len(rounds) - 2))
    return Deployed(out)


def _train(deployed: Deployed, out: Path, settings: Settings, *, k: int) -> None:
    policies.prepare_libraries()
    rollout = settings.of("rollout", env=settings.env)
    seed = (settings.seed * 100 + k) * 1_000_003
    pairs = hold_pairs(
        load_environment(settings.env),
        PolicyAssistant(deployed, seed=seed),
        number=settings.conversations // 2,
        parallel=rollout.parallel,
        max_turns=rollout.max_turns,
        seed=seed,
    )
    loaded = policies.load_policy(deployed.policy)
    regress(loaded, pairs, seed=settings.seed)
    save(loaded, out, before=deployed.policy, config=settings.of("init"))


def hold_pairs(
    factory: Callable[[], Any],
    assistant: Assistant,
    *,
    number: int,
    parallel: int,
    max_turns: int,
    seed: int,
) -> list[Pair]:
    """Conversations of an assistant, each continued twice from one of its states.

    A conversation that is still open after `max_turns` has not reached its outcome.
    """
    pairs = []
    for start in range(0, number, parallel):
        firsts, forks = _forked(
            factory, assistant, range(start, min(start + parallel, number)), max_turns, seed
        )
        seconds = [fork.again for fork in forks]
        _to_the_end(seconds, assistant, max_turns)
        for first, second, fork in zip(firsts, seconds, forks, strict=True):
            at = len(fork.turns) - 1
            actions = first.turns[at]["suggestion"], second.turns[at]["suggestion"]
            outcomes = first.observation.outcome, second.observation.outcome
            pairs.append(Pair(fork.turns, (actions[0] or "", actions[1] or ""), outcomes))
    return pairs


@dataclass(frozen=True)
class _Fork:
    turns: list[TurnSoFar]
    again: Episode


def _forked(
    factory: Callable[[], Any],
    assistant: Assistant,
    numbers: range,
    max_turns: int,
    seed: int,
) -> tuple[list[Episode], list[_Fork]]:
    """Conversations to their ends, and of each one of its states, to go on from."""
    forks: dict[int, _Fork] = {}

    def keep(episode: Episode) -> None:
        # Of n states so far the newest is kept one time in n: each is as likely in the end.
        at = f"{episode.number}/{len(episode.turns)}"
        if unit_hash(f"fork/{at}", seed=seed) * (len(episode.turns) + 1) >= 1:
            return
        environment = episode.environment
        assert isinstance(environment, CloneableEnvironment)
        copy = environment.clone(int(unit_hash(f"again/{at}", seed=seed) * 2**53))
        here = Observation(episode.observation.customer, outcome=False, done=False)
        again = Episode(episode.number, copy, here, list(episode.turns))
        forks[episode.number] = _Fork(episode.waiting(), again)

    episodes = []
    for number in numbers:
        environment = factory()
        first = environment.reset(int(unit_hash(f"pair/{number}", seed=seed) * 2**53))
        episodes.append(Episode(number, environment, first))
    _to_the_end(episodes, assistant, max_turns, before=keep)
    return episodes, [forks[number] for number in numbers]


def _to_the_end(
    episodes: Sequence[Episode],
    assistant: Assistant,
    max_turns: int,
    *,
    before: Callable[[Episode], None] = lambda episode: None,
) -> None:
    def is_open(episode: Episode) -> bool:
        return not episode.observation.done and len(episode.turns) < max_turns

    while waiting := [episode for episode in episodes if is_open(episode)]:
        for episode in waiting:
            before(episode)
        suggestions: list[Suggestion] = assistant([episode.waiting() for episode in waiting])
        for episode, suggestion in zip(waiting, suggestions, strict=True):
            episode.advance(suggestion)


def regress(policy: Policy, pairs: Sequence[Pair], *, seed: int) -> list[float]:
    """Train a policy in its place; the loss of every step, in squared outcomes.

    Shapes: P pairs, the two rows of each one after the other.
    """
    model: Any = policy.model
    model.eval()  # no dropout: π_θ begins as π_t
    rows = [row for pair in pairs for row in _rows(policy, pair)]
    with torch.no_grad():
        size = 64
        old = torch.cat(
            [_logprobs(policy, rows[at : at + size]) for at in range(0, len(rows), size)]
        ).reshape(-1, 2)
    gained_P = torch.tensor([float(pair.outcomes[0]) - pair.outcomes[1] for pair in pairs])

    def loss_of(batch: list[int]) -> torch.Tensor:
        chosen = [row for index in batch for row in rows[2 * index : 2 * index + 2]]
        ratio_P2 = _logprobs(policy, chosen).reshape(-1, 2) - old[batch]
        foretold_P = BETA * (ratio_P2[:, 0] - ratio_P2[:, 1])
        return (foretold_P - gained_P[batch]).square().mean()

    lengths = [
        sum(map(len, first + second)) for first, second in zip(rows[::2], rows[1::2], strict=True)
    ]
    return minimise(
        list(model.parameters()),
        loss_of,
        lengths,
        epochs=EPOCHS,
        max_steps=2**31,
        tokens_per_batch=TOKENS_PER_BATCH,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        seed=Random(seed).randrange(2**31),
        what="refuel",
    )


def _rows(policy: Policy, pair: Pair) -> list[tuple[list[int], list[int]]]:
    """Tokens of the state, and of each of the two suggestions."""
    settings, renderer = policy.settings, policy.renderer
    *_, last = decisions(pair.turns, system_prompt=settings.system_prompt)
    fitted = renderer.fit(last.state, max_tokens=settings.max_prompt_tokens)
    assert fitted is not None, "messages of the environment fit the context"
    prompt = renderer.prompt_ids(fitted[0])
    return [(prompt, renderer.action_ids(action)) for action in pair.actions]


def _logprobs(policy: Policy, rows: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
    """log π(a|s) of each row, in nats, at the policy's temperature."""
    ids_BT = right_pad([prompt + action for prompt, action in rows], value=0)
    is_action_BT = right_pad(
        [[False] * len(prompt) + [True] * len(action) for prompt, action in rows], value=False
    )
    logits_BTV = policy.model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    loss_N = torch.nn.functional.cross_entropy(
        (logits_BTV / policy.settings.temperature).flatten(0, 1),
        ids_BT[:, 1:].flatten(),
        reduction="none",
    )
    return -(loss_N.view(ids_BT[:, 1:].shape) * is_action_BT[:, 1:]).sum(dim=1)
