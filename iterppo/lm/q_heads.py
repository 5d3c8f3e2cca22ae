"""What Q̂ and V̂ make of what the backbone says at the ends of a conversation's turns.

    linear       h(s, a) and h(s)
    predictive   numbers of state and action that the future depends on (`predictive_state`)

h is the backbone's last hidden state at the end of a state or a pair.

Shapes: B sequences, T tokens, N pairs or states, H hidden, D numbers of x, M members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from iterppo.lm.predictive_state import PredictiveState
from iterppo.lm.rendering import Said

_PREDICTIVE = "predictive."


class Features(NamedTuple):
    """What is read at the ends of a segment or a batch, or what the heads are linear in."""

    action_ND: torch.Tensor
    state_ND: torch.Tensor


class Place(NamedTuple):
    """Where a pair is read."""

    row: int
    """Of the batch."""
    state: int
    """Position of the state's last token."""
    end: int
    """Position of the pair's last token."""
    said: Said
    """In the state."""


class Heads(torch.nn.Module):
    """M heads of Q̂ and one of V̂.

    Args:
        width: H.
        members: M.
        reads_history: Whether what people wrote is read as well.
        predictive: What the heads make of it; None: they are linear in h.
    """

    def __init__(
        self,
        width: int,
        members: int,
        *,
        reads_history: bool = False,
        predictive: PredictiveState | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.reads_history = reads_history or predictive is not None
        self.predictive = predictive
        pair, state = (width, width) if predictive is None else predictive.widths
        self.members = torch.nn.Linear(pair, members, bias=False)
        self.state = torch.nn.Linear(state, 1, bias=False)

    @classmethod
    def like(cls, weights: Mapping[str, torch.Tensor]) -> Heads:
        """What `state_dict` gave these."""
        members, width = weights["members.weight"].shape
        found = {
            name.removeprefix(_PREDICTIVE): weight
            for name, weight in weights.items()
            if name.startswith(_PREDICTIVE)
        }
        if found:
            predictive = PredictiveState.like(found)
            made = cls(len(predictive.action_HA), members, predictive=predictive)
        else:
            made = cls(width, members)
        made.load_state_dict(weights)
        return made

    def read(
        self, hidden_BTH: torch.Tensor, places: Sequence[Place], *, words_VE: torch.Tensor
    ) -> Features:
        """h of pairs, and x of states behind it; h alone of both where nothing else is read.

        Args:
            hidden_BTH: The backbone's last hidden states.
            places: Where.
            words_VE: Its input embeddings.
        """
        rows = [place.row for place in places]
        pair_NH = hidden_BTH[rows, [place.end for place in places]].float()
        state_NH = hidden_BTH[rows, [place.state for place in places]].float()
        if not self.reads_history:
            return Features(pair_NH, state_NH)
        sums = [
            _sums([said[who] for said in (place.said for place in places)], words_VE)
            for who in range(len(Said._fields))
        ]
        x_ND = torch.cat([state_NH, *sums], dim=1)
        return Features(torch.cat([pair_NH, x_ND], dim=1), x_ND)

    def lifted(self, features: Features) -> Features:
        """What the heads are linear in."""
        return Features(
            self.lifted_pairs(features.action_ND),
            features.state_ND
            if self.predictive is None
            else self.predictive.of_states(features.state_ND),
        )

    def lifted_pairs(self, x_ND: torch.Tensor) -> torch.Tensor:
        """The same of pairs alone."""
        if self.predictive is None:
            return x_ND
        return self.predictive.of_pairs(x_ND[:, : self.width], x_ND[:, self.width :])

    def outputs(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """The members' (N, M), and V̂'s (N,)."""
        pair_ND, state_ND = self.lifted(features)
        return self.members(pair_ND), self.state(state_ND).squeeze(-1)

    def of_pairs(self, x_ND: torch.Tensor) -> torch.Tensor:
        """The members' (N, M)."""
        found: torch.Tensor = self.members(self.lifted_pairs(x_ND))
        return found


def _sums(texts: Sequence[Sequence[int]], words_VE: torch.Tensor) -> torch.Tensor:
    """Of the embeddings of each text's tokens: (N, E)."""
    device = words_VE.device
    ids = torch.tensor([token for text in texts for token in text], dtype=torch.long, device=device)
    lengths = torch.tensor([0, *(len(text) for text in texts)], device=device)
    found: torch.Tensor = torch.nn.functional.embedding_bag(
        ids, words_VE, lengths.cumsum(0)[:-1], mode="sum"
    )
    return found.float()
