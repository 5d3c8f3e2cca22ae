"""The critic: a scalar head on the policy's backbone, or on a backbone of its own.

Its values are computed inside the model's own forward, so that whatever wraps the model (DDP, ZeRO)
sees it used. A backbone of its own starts as a copy of the policy's, and is a part of its model.

Shapes: B sequences, S positions of prompt and completion together, D hidden.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from iterppo.lm.training import right_pad, token_batches

HEAD = "value_head"
BACKBONE = "value_backbone"


class Valued(NamedTuple):
    """A completion, and what it is worth."""

    prompt: list[int]
    completion: list[int]
    worth: float
    weight: float = 1.0


class Critic:
    """Attaches a value head to a causal language model and collects its outputs on demand.

    Args:
        model: Of the policy.
        separate: Whether the critic reads with a backbone of its own: what values need does not
            then pull at what the policy needs, for a second model to train. It cannot share the
            keys and values that sampling keeps, so that completions are read once more.
    """

    def __init__(self, model: PreTrainedModel, *, separate: bool = False) -> None:
        backbone: Any = getattr(model, model.base_model_prefix)
        self.separate = separate
        if separate:
            model.add_module(BACKBONE, copy.deepcopy(backbone).requires_grad_(True))
        head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        model.add_module(HEAD, head.to(model.device))
        self.model = model
        self._collecting: list[torch.Tensor] | None = None
        self._hook = backbone.register_forward_hook(self._after_backbone, with_kwargs=True)

    @property
    def backbone(self) -> Any:
        """What the head reads."""
        return getattr(self.model, BACKBONE if self.separate else self.model.base_model_prefix)

    def _after_backbone(
        self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any
    ) -> None:
        if self._collecting is None:
            return
        hidden_BSD = output.last_hidden_state
        if self.separate:
            if kwargs.get("past_key_values") is not None:
                raise RuntimeError("a critic with a backbone of its own reads whole sequences only")
            hidden_BSD = self.backbone(*args, **kwargs).last_hidden_state
        head = getattr(self.model, HEAD)
        with torch.autocast(hidden_BSD.device.type, enabled=False):  # values are small differences
            value_BS1 = head(hidden_BSD.to(head.weight.dtype))
        self._collecting.append(value_BS1.squeeze(-1).float())

    @contextlib.contextmanager
    def collecting(self) -> Iterator[list[torch.Tensor]]:
        """Values (B, S) of every forward within the block, one tensor per forward."""
        before, self._collecting = self._collecting, []
        try:
            yield self._collecting
        finally:
            self._collecting = before

    @torch.no_grad()
    def fit_head(self, examples: Sequence[Valued]) -> None:
        """Fit the head by ridge regression, in closed form: an untrained critic would harm the
        first updates.

        The value before every token of a completion is E[worth | the tokens so far], so every
        position from the last of the prompt to the one before the last token is an example, with
        the tokens as they were drawn.
        """
        features, targets, weights = [], [], []
        lengths = [len(one.prompt) + len(one.completion) for one in examples]
        for batch in token_batches(lengths, tokens_per_batch=8192, seed=None):
            ids_BS = right_pad(
                [[*examples[i].prompt, *examples[i].completion] for i in batch], value=0
            ).to(self.model.device)
            hidden_BSD = self.backbone(input_ids=ids_BS, use_cache=False).last_hidden_state.float()
            for row, i in enumerate(batch):
                start, length = len(examples[i].prompt) - 1, len(examples[i].completion)
                features.append(hidden_BSD[row, start : start + length])
                targets.append(hidden_BSD.new_full((length,), examples[i].worth))
                weights.append(hidden_BSD.new_full((length,), examples[i].weight))
        weight_D, bias = _ridge(torch.cat(features), torch.cat(targets), torch.cat(weights))
        head = getattr(self.model, HEAD)
        head.weight.copy_(weight_D.unsqueeze(0))
        head.bias.copy_(bias)


def critic_of(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The critic's own, of the weights of a model that has one: those of the head by their plain
    names (`weight`, `bias`), those of a backbone of its own behind its name."""
    prefix = f"{HEAD}."
    head = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    return head | {n: w for n, w in weights.items() if n.startswith(f"{BACKBONE}.")}


def _ridge(
    feature_ND: torch.Tensor, target_N: torch.Tensor, weight_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """argmin_w Σ u (w·x + b − y)² + λ|w|², with λ a hundredth of the features' variance per
    example, and u the examples' weights.

    Completions of one prompt are alike, so there are far fewer independent examples than rows; the
    penalty is what keeps the head from reading noise into the difference.
    """
    share_N = (weight_N / weight_N.sum()).to(feature_ND.dtype)
    mean_D, mean = share_N @ feature_ND, share_N @ target_N
    centred_ND = (feature_ND - mean_D).double()
    weighted_ND = centred_ND * weight_N.double().unsqueeze(1)
    gram_DD = centred_ND.T @ weighted_ND
    penalty = 0.01 * gram_DD.diagonal().mean()
    gram_DD.diagonal().add_(penalty)
    weight_D = torch.linalg.solve(gram_DD, weighted_ND.T @ (target_N - mean).double()).float()
    return weight_D, mean - mean_D @ weight_D
