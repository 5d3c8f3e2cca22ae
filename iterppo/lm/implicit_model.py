"""π_φ, a copy of a policy that learns what successful conversations have that others have not.

    q_t = log π_φ(y_t | y_<t) − log π_ref(y_t | y_<t) at the assistant's tokens,    σ(β Σ_t q_t) ≈ R

π_ref is the policy as it was. Its log-probabilities are taken before the first step, so that there
is one model in memory. A conversation is one causal pass, since the rendering of a turn begins with
that of the turn before; one that is longer than the context is as many as its states have left
ends. What a pass reads are the tokens of actions, end of turn included: neither the customer's
words nor what the template writes between messages.

Shapes: T tokens of the assistant, of all conversations of a batch, laid end to end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel

from iterppo.config import CreditConfig
from iterppo.lm.best_epoch import BestEpoch
from iterppo.lm.checkpoint import Checkpoint
from iterppo.lm.completion_scoring import vocabulary_at
from iterppo.lm.read_positions import last_layer_at
from iterppo.lm.rendering import Renderer, Segment, decisions
from iterppo.lm.training import minimise, right_pad, token_batches
from iterppo.logs.splits import unit_hash
from iterppo.rl.implicit_loss import outcome_logits, outcome_loss

Array = np.ndarray[Any, Any]

SETTINGS = "iterppo_credit.json"
VALIDATION_SHARE = 0.1
"""Of the training conversations: they choose the epoch that is kept."""


class CreditSettings(BaseModel):
    """What must be known besides the model to score a conversation with it."""

    model_config = ConfigDict(frozen=True)

    beta: float
    max_tokens: int
    system_prompt: str
    reference_version: str
    """Name of the policy that is π_ref."""


@dataclass(frozen=True)
class Said:
    """A conversation as it is scored."""

    conversation_id: str
    outcome: float
    """R."""
    segments: list[Segment]
    tokens: list[tuple[int, int, int]]
    """Of the assistant, in order: (index of the turn, number of the segment, position in it)."""
    num_turns: int
    num_too_long: int
    num_without_action: int

    @property
    def tokens_per_turn(self) -> Array:
        """Of each turn, the silent ones too."""
        owners = [owner for owner, _, _ in self.tokens]
        return np.bincount(np.asarray(owners, dtype=np.int64), minlength=self.num_turns)

    @property
    def room(self) -> int:
        """Tokens that it takes in a batch, at most."""
        return len(self.segments) * max(len(segment.ids) for segment in self.segments)


def said_of(
    rows: Sequence[Mapping[str, Any]], renderer: Renderer, *, system_prompt: str, max_tokens: int
) -> Said:
    """Render a conversation, given as its rows of trajectories."""
    seen = list(decisions(rows, system_prompt=system_prompt))
    segments, too_long = renderer.segments(seen, max_tokens=max_tokens)
    tokens = []
    for number, segment in enumerate(segments):
        for (index, _), state in zip(segment.ends, segment.states, strict=True):
            length = len(renderer.action_ids(seen[index].action or ""))
            tokens += [(index, number, state + 1 + place) for place in range(length)]
    return Said(
        rows[0]["conversation_id"],
        float(sum(row["reward"] for row in rows)),
        segments,
        sorted(tokens),
        len(rows),
        len(too_long),
        sum(decision.action is None for decision in seen),
    )


def token_logprobs(model: PreTrainedModel, batch: Sequence[Said]) -> torch.Tensor:
    """log π of the assistant's tokens of the batch, in nats, by one causal pass: shape (T,)."""
    segments = [segment for said in batch for segment in said.segments]
    ids_BT = right_pad([segment.ids for segment in segments], value=0)
    before = np.cumsum([0, *(len(said.segments) for said in batch)])
    places = [
        (first + number, position)
        for said, first in zip(batch, before.tolist(), strict=False)
        for _, number, position in said.tokens
    ]
    row_T, position_T = torch.tensor(places).T
    read: list[list[int]] = [[0] for _ in segments]
    for row, position in places:
        read[row].append(position - 1)
    backbone = getattr(model, model.base_model_prefix)
    # Right padding needs no attention mask in a causal model: no real token can see what follows.
    with last_layer_at(backbone, read), vocabulary_at(model, row_T, position_T - 1):
        logits_TV = model(input_ids=ids_BT.to(model.device), use_cache=False).logits[0].float()
    target_T = ids_BT[row_T, position_T].to(logits_TV.device)
    return -torch.nn.functional.cross_entropy(logits_TV, target_T, reduction="none")


@torch.no_grad()
def all_token_logprobs(
    model: PreTrainedModel, conversations: Sequence[Said], *, tokens_per_batch: int
) -> list[torch.Tensor]:
    """log π of the assistant's tokens of each conversation."""
    found = [torch.zeros(0)] * len(conversations)
    spoken = [number for number, said in enumerate(conversations) if said.tokens]
    lengths = [conversations[number].room for number in spoken]
    for batch in token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None):
        chosen = [spoken[index] for index in batch]
        logprob_T = token_logprobs(model, [conversations[number] for number in chosen]).cpu()
        counts = [len(conversations[number].tokens) for number in chosen]
        for number, part in zip(chosen, logprob_T.split(counts), strict=True):
            found[number] = part
    return found


def batch_loss(
    model: PreTrainedModel,
    batch: Sequence[Said],
    reference: Sequence[torch.Tensor],
    *,
    beta: float,
    num_conversations: int,
) -> torch.Tensor:
    """Cross-entropy of the outcomes of a batch, or of its part of a batch of so many conversations.

    Args:
        model: π_φ.
        batch: Conversations in which the assistant said something.
        reference: log π_ref of the tokens of each.
        beta: β.
        num_conversations: Of the whole batch: the losses of its parts sum to its loss.

    Returns:
        A scalar, in nats per conversation.
    """
    logprob_T = token_logprobs(model, batch)
    log_ratio_T = logprob_T - torch.cat(list(reference)).to(logprob_T.device)
    counts = torch.tensor([len(said.tokens) for said in batch], device=logprob_T.device)
    outcomes = torch.tensor([said.outcome for said in batch], device=logprob_T.device)
    logit_B = outcome_logits(log_ratio_T, counts, beta=beta)
    return outcome_loss(logit_B, outcomes, num_conversations=num_conversations)


@dataclass(frozen=True)
class Fit:
    """How the fit went."""

    losses: list[float]
    validation: list[float]
    """Cross-entropy of the validation conversations, before training and after each epoch."""
    best_epoch: int


def fit(
    model: PreTrainedModel,
    conversations: Sequence[Said],
    reference: Sequence[torch.Tensor],
    config: CreditConfig,
    *,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Train π_φ in place; leave it at the epoch that predicts best on the tenth of the
    conversations that is kept out of the gradient.

    It stays in evaluation mode: with dropout π_φ would differ from π_ref before it has learned
    anything.

    Args:
        model: π_φ, as π_ref is.
        conversations: Of the training split, with known outcomes.
        reference: log π_ref of the tokens of each.
        config: Of the stage.
        checkpoint: Where a fit that is killed can go on from.

    Raises:
        ValueError: If there is nothing to learn from.
    """
    pairs = [
        (said, logprobs)
        for said, logprobs in zip(conversations, reference, strict=True)
        if said.tokens
    ]
    if not pairs:
        raise ValueError(
            "no training conversation has a known outcome and an action that fits into "
            "credit.max_tokens"
        )
    kept_out = [
        unit_hash(f"validation/{said.conversation_id}", seed=config.seed) < VALIDATION_SHARE
        for said, _ in pairs
    ]
    train = [pair for pair, out in zip(pairs, kept_out, strict=True) if not out] or pairs
    validation = [pair for pair, out in zip(pairs, kept_out, strict=True) if out]
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    best = BestEpoch(parameters)
    best.note(_mean_loss(model, validation, config))

    def loss_of(batch: list[int]) -> torch.Tensor:
        return batch_loss(
            model,
            [train[index][0] for index in batch],
            [train[index][1] for index in batch],
            beta=config.beta,
            num_conversations=len(batch),
        )

    losses = minimise(
        parameters,
        loss_of,
        [said.room for said, _ in train],
        epochs=config.epochs,
        max_steps=config.max_steps,
        tokens_per_batch=config.tokens_per_batch,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
        what="credit",
        after_epoch=lambda _: best.note(_mean_loss(model, validation, config)),
        checkpoint=checkpoint,
        companion=best,
    )
    best.take()
    return Fit(losses, best.history, best.number)


def save(model: PreTrainedModel, renderer: Renderer, settings: CreditSettings, out: Path) -> None:
    """Write model, tokenizer and settings."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out, safe_serialization=True)
    renderer.tokenizer.save_pretrained(out)
    (out / SETTINGS).write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def _mean_loss(
    model: PreTrainedModel, pairs: Sequence[tuple[Said, torch.Tensor]], config: CreditConfig
) -> float:
    if not pairs:
        return math.nan
    total = 0.0
    lengths = [said.room for said, _ in pairs]
    for batch in token_batches(lengths, tokens_per_batch=config.tokens_per_batch, seed=None):
        loss = batch_loss(
            model,
            [pairs[index][0] for index in batch],
            [pairs[index][1] for index in batch],
            beta=config.beta,
            num_conversations=len(pairs),
        )
        total += float(loss)
    return total
