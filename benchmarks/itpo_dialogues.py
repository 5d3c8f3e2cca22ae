"""Conversations for `benchmarks.itpo`: held by a model or a script, and read in one pass.

    environment × assistant -> Dialogue -> log π of the assistant's tokens, hidden states

Prefixes are preserved (`iterppo.lm.rendering`), so one causal pass over a whole conversation sees
every turn of it. Tokens of the assistant are laid end to end, turn by turn, conversation by
conversation, as `iterppo.rl.implicit_rewards` takes them.

A policy goes on from the tokens that it drew, and learns from those. Texts have other spellings
too. Were a conversation spelled anew, some of what was drawn could be neither paid nor punished,
and training would drift to it: within twenty updates most of it was, and success was gone.

Shapes: N tokens of the assistant, K turns, B conversations, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from iterppo.environments.episodes import Episode, Suggestion, TurnSoFar
from iterppo.environments.protocol import CloneableEnvironment, Environment
from iterppo.lm.generation import complete
from iterppo.lm.policy import Policy
from iterppo.lm.read_positions import last_layer_at
from iterppo.lm.rendering import Renderer, decisions
from iterppo.lm.training import right_pad, token_batches
from iterppo.logs.splits import unit_hash

Array = np.ndarray[Any, Any]
TOKENS_PER_BATCH = 16_384


@dataclass(frozen=True)
class Dialogue:
    """A conversation as the models read it."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """First token and number of tokens of each of the assistant's messages, its end included where
    it was reached."""
    states: list[int]
    """Position of the last token before each message."""
    ends: list[int]
    """Position at which the pair of state and message is read."""
    outcome: float
    turns: list[TurnSoFar]


class Counts(NamedTuple):
    """Who owns which tokens."""

    tokens_K: Array
    turns_B: Array

    @property
    def tokens_B(self) -> Array:
        """Tokens of each conversation."""
        owner_K = np.repeat(np.arange(len(self.turns_B)), self.turns_B)
        return np.bincount(owner_K, weights=self.tokens_K, minlength=len(self.turns_B)).astype(int)


def counts_of(dialogues: Sequence[Dialogue]) -> Counts:
    """Tokens of each turn, turns of each conversation."""
    tokens = [length for dialogue in dialogues for _, length in dialogue.spans]
    return Counts(np.array(tokens), np.array([len(dialogue.spans) for dialogue in dialogues]))


def outcomes_of(dialogues: Sequence[Dialogue]) -> Array:
    """R of each conversation."""
    return np.array([dialogue.outcome for dialogue in dialogues])


class Written(NamedTuple):
    """A message of the assistant in the rendering of a conversation."""

    start: int
    length: int
    """In that rendering, its end included."""
    tokens: list[int]
    """As they were drawn; without an end where it was not reached."""


def as_drawn(
    ids: Sequence[int], messages: Sequence[Written], *, eos_id: int
) -> tuple[list[int], list[int]]:
    """A rendering with every message in the tokens that it was drawn in, and where each begins.
    One that did not end is given its end."""
    found: list[int] = []
    starts = []
    at = 0
    for message in messages:
        found += ids[at : message.start]
        starts.append(len(found))
        found += _ended(message.tokens, eos_id)
        at = message.start + message.length
    return [*found, *ids[at:]], starts


def dialogue_of(
    turns: Sequence[TurnSoFar],
    *,
    outcome: bool,
    drawn: Sequence[list[int]] | None,
    renderer: Renderer,
    system_prompt: str,
    max_tokens: int,
) -> Dialogue:
    """A finished conversation as tokens.

    Args:
        drawn: Tokens of each of the assistant's messages; None: as their texts are spelled.

    Raises:
        ValueError: If it is longer than `max_tokens`.
    """
    taken = list(decisions(turns, system_prompt=system_prompt))
    segments, too_long = renderer.segments(taken, max_tokens=max_tokens)
    if too_long or len(segments) != 1:
        raise ValueError(f"a conversation of {len(turns)} turns exceeds {max_tokens} tokens")
    messages, tails = [], []
    for number, end in segments[0].ends:
        action = taken[number].action
        assert action is not None
        spelled, whole = renderer.action_ids(action), renderer.turn_ids(action)
        tokens = spelled if drawn is None else drawn[number]
        messages.append(Written(end + 1 - len(whole), len(spelled), tokens))
        tails.append(len(whole) - len(spelled))
    ids, starts = as_drawn(segments[0].ids, messages, eos_id=renderer.eos_id)
    if len(ids) > max_tokens:
        raise ValueError(f"a conversation of {len(turns)} turns exceeds {max_tokens} tokens")
    return Dialogue(
        ids,
        spans=[(start, len(one.tokens)) for start, one in zip(starts, messages, strict=True)],
        states=[start - 1 for start in starts],
        ends=[
            start + len(_ended(one.tokens, renderer.eos_id)) + tail - 1
            for start, one, tail in zip(starts, messages, tails, strict=True)
        ],
        outcome=float(outcome),
        turns=list(turns),
    )


def _ended(tokens: list[int], eos_id: int) -> list[int]:
    return tokens if tokens[-1] == eos_id else [*tokens, eos_id]


def hold_by_model(
    factory: Callable[[], Environment],
    policy: Policy,
    *,
    num_prompts: int,
    per_prompt: int,
    max_turns: int,
    seed: int,
    max_tokens: int | None = None,
) -> list[Dialogue]:
    """Conversations of a policy; `per_prompt` neighbours have one customer with one first message,
    and futures of their own. One of more than `max_tokens` (None: as many as the policy is served
    with) is an error."""
    episodes: list[Episode] = []
    for prompt in range(num_prompts):
        environment = factory()
        assert isinstance(environment, CloneableEnvironment)
        first = environment.reset(int(unit_hash(f"prompt/{prompt}", seed=seed) * 2**53))
        for copy in range(per_prompt):
            future = int(unit_hash(f"future/{prompt}/{copy}", seed=seed) * 2**53)
            episodes.append(Episode(len(episodes), environment.clone(future), first))
    settings, renderer = policy.settings, policy.renderer
    written: list[list[Written]] = [[] for _ in episodes]
    torch.manual_seed(int(unit_hash("tokens", seed=seed) * 2**53))
    for _ in range(max_turns):
        open_ones = [episode for episode in episodes if not episode.observation.done]
        if not open_ones:
            break
        renderings = []
        for episode in open_ones:
            *_, last = decisions(episode.waiting(), system_prompt=settings.system_prompt)
            renderings.append(renderer.prompt_ids(last.state))
        prompts = [
            as_drawn(ids, written[episode.number], eos_id=renderer.eos_id)[0]
            for ids, episode in zip(renderings, open_ones, strict=True)
        ]
        said = complete(policy, prompts)
        for episode, ids, one in zip(open_ones, renderings, said, strict=True):
            length = len(renderer.action_ids(one.text or ""))
            written[episode.number].append(Written(len(ids), length, one.tokens))
            episode.advance(Suggestion(one.text, one.logprob))
    return [
        dialogue_of(
            episode.turns,
            outcome=episode.observation.outcome,
            drawn=[one.tokens for one in written[episode.number]],
            renderer=renderer,
            system_prompt=settings.system_prompt,
            max_tokens=max_tokens or settings.max_prompt_tokens + settings.max_new_tokens,
        )
        for episode in episodes
    ]


def hold_by_script(
    factory: Callable[[], Any], script: str, *, number: int, max_turns: int, seed: int
) -> list[tuple[list[TurnSoFar], bool]]:
    """Turns and outcome of conversations of a script."""
    assistant = factory().scripted_assistant(seed, script)
    held = []
    for index in range(number):
        environment = factory()
        first = environment.reset(int(unit_hash(f"script/{index}", seed=seed) * 2**53))
        episode = Episode(index, environment, first)
        while not episode.observation.done and len(episode.turns) < max_turns:
            customer = episode.observation.customer or ""
            said = assistant.suggest(customer, len(episode.turns) + 1)
            episode.advance(Suggestion(said, None))
        held.append((episode.turns, episode.observation.outcome))
    return held


class Read(NamedTuple):
    """What a model makes of some conversations."""

    logprob_N: torch.Tensor
    """log π of the assistant's tokens, in nats."""
    hidden_ND: torch.Tensor
    """The last hidden state before each of them."""


def read_tokens(model: Any, dialogues: Sequence[Dialogue]) -> Read:
    """One pass; gradients as the caller has them."""
    places = [
        [start + offset - 1 for start, length in dialogue.spans for offset in range(length)]
        for dialogue in dialogues
    ]
    hidden_ND = read_hidden(model, dialogues, places)
    written_N = torch.tensor(
        [
            dialogue.ids[position + 1]
            for dialogue, row in zip(dialogues, places, strict=True)
            for position in row
        ]
    )
    logprob_NV = model.lm_head(hidden_ND).float().log_softmax(dim=-1)
    return Read(logprob_NV.gather(1, written_N.unsqueeze(1)).squeeze(1), hidden_ND)


def read_hidden(
    model: Any, dialogues: Sequence[Dialogue], places: Sequence[Sequence[int]]
) -> torch.Tensor:
    """The last hidden state at these positions of each conversation, laid end to end."""
    ids_BT = right_pad([dialogue.ids for dialogue in dialogues], value=0)
    with last_layer_at(model.model, places):
        # Right padding needs no attention mask: no real token can see what follows it.
        hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    row_N = [row for row, each in enumerate(places) for _ in each]
    hidden_ND: torch.Tensor = hidden_BTD[row_N, [place for each in places for place in each]]
    return hidden_ND


@torch.no_grad()
def token_logprobs_of(model: Any, dialogues: Sequence[Dialogue]) -> list[torch.Tensor]:
    """log π of each conversation's tokens, in batches of conversations of like length."""
    model.eval()
    found: list[torch.Tensor] = [torch.empty(0)] * len(dialogues)
    for batch in token_batches(
        [len(dialogue.ids) for dialogue in dialogues], tokens_per_batch=TOKENS_PER_BATCH, seed=None
    ):
        chosen = [dialogues[index] for index in batch]
        lengths = counts_of(chosen).tokens_B.tolist()
        pieces = read_tokens(model, chosen).logprob_N.split(lengths)
        for index, piece in zip(batch, pieces, strict=True):
            found[index] = piece
    return found
