"""Turns of a log that tell what the future depends on: what predictive states are found from.

Shapes: N turns, H hidden, D numbers of x (`iterppo.lm.predictive_state`), E of what is sent, F of
what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from iterppo.config import FitQConfig
from iterppo.lm.predictive_state import PredictiveState
from iterppo.lm.q_function import QFunction
from iterppo.lm.q_heads import Heads
from iterppo.lm.q_log import Conversation
from iterppo.logs.splits import unit_hash

EXAMPLES_PER_ROW = 16
"""Turns for every one that states are compared with."""
LATER = 0.9
"""Weight of a message, as a share of that of the one before, in all that follows."""


@dataclass(frozen=True)
class Examples:
    """Turns of conversations that are over.

    Args:
        pair_NH: h(s, a).
        x_ND: x of the state.
        sent_NE: What was sent.
        future_NF: What followed.
        fold_N: Of a cross-validation.
    """

    pair_NH: torch.Tensor
    x_ND: torch.Tensor
    sent_NE: torch.Tensor
    future_NF: torch.Tensor
    fold_N: torch.Tensor

    @classmethod
    def of(
        cls,
        q: QFunction,
        conversations: Sequence[Conversation],
        config: FitQConfig,
        *,
        fold_of: Callable[[Conversation], int],
    ) -> Examples:
        """Some, by chance. Q's heads are new ones that read what people wrote.

        Raises:
            ValueError: If no conversation is over.
        """
        wanted = EXAMPLES_PER_ROW * config.compared_turns
        by_chance = sorted(
            (c for c in conversations if c.segments and all(c.fates_known)),
            key=lambda c: unit_hash(f"example/{c.conversation_id}", seed=config.seed),
        )
        chosen: list[Conversation] = []
        number = 0
        for c in by_chance:
            if number >= wanted:
                break
            chosen.append(c)
            number += _num_turns(c)
        if not chosen:
            raise ValueError(
                "of no training conversation it is known how it went on to its end, so that "
                "nothing tells what follows; --set fit-q.compared_turns=0 does without"
            )
        width = q.backbone.config.hidden_size
        q.heads = Heads(width, q.settings.members, reads_history=True)
        found = q.features([segment for c in chosen for segment in c.segments])
        pair_ND = torch.cat([features.action_ND for features in found])
        return cls(
            pair_ND[:, :width],
            pair_ND[:, width:],
            torch.cat([_sent(q, c) for c in chosen]),
            torch.cat([_futures(q, c) for c in chosen]),
            torch.tensor([fold_of(c) for c in chosen for _ in range(_num_turns(c))]),
        )

    def has_others(self, fold: int) -> bool:
        """Whether some are of other folds."""
        return bool((self.fold_N != fold).any())

    def without(self, fold: int) -> Examples:
        """Those of all other folds."""
        kept_N = self.fold_N != fold
        return Examples(*(column[kept_N] for column in vars(self).values()))

    def predictive(self, config: FitQConfig) -> PredictiveState:
        """The numbers of state and action that what follows depends on."""
        return PredictiveState.of(
            self.x_ND,
            self.pair_NH,
            self.sent_NE,
            self.future_NF,
            rows=config.compared_turns,
            states=config.state_size,
            actions=config.action_size,
            seed=config.seed,
        )


def _num_turns(c: Conversation) -> int:
    return sum(len(segment.ends) for segment in c.segments)


@torch.no_grad()
def _sent(q: QFunction, c: Conversation) -> torch.Tensor:
    """What was sent in each turn that is read, in their order."""
    read = [index for segment in c.segments for index, _ in segment.ends]
    return torch.stack([_words(q, c.rows[index]["sent"]) for index in read])


@torch.no_grad()
def _futures(q: QFunction, c: Conversation) -> torch.Tensor:
    """What followed each turn that is read, in their order: the customer's next message, all later
    ones, whether that was the end, how many turns were left, the reward."""
    heard = [_words(q, row["customer"]) for row in c.rows]
    following = later = torch.zeros_like(heard[0])
    found: list[torch.Tensor] = []
    for left, (reward, heard_E) in enumerate(
        zip(reversed(c.rewards), reversed(heard), strict=True)
    ):
        rest = torch.tensor([float(left == 0), float(left), reward])
        found.append(torch.cat([following, later, rest]))
        following, later = heard_E, heard_E + LATER * later
    found.reverse()
    return torch.stack([found[index] for segment in c.segments for index, _ in segment.ends])


def _words(q: QFunction, text: str | None) -> torch.Tensor:
    """The sum of the embeddings of a message's tokens."""
    return q.words.detach()[q.renderer.text_ids(text or "")].sum(dim=0).double().cpu()
