"""The critic: a scalar head on the policy's backbone.

Its values are computed inside the model's own forward, so that whatever wraps the model (DDP, ZeRO)
sees the head used.

Shapes: B sequences, S positions of prompt and completion together, D hidden.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from iterppo.lm.generation import sample
from iterppo.lm.policy import Policy
from iterppo.lm.training import right_pad, token_batches

HEAD = "value_head"


class Critic:
    """Attaches a value head to a causal language model and collects its outputs on demand."""

    def __init__(self, model: PreTrainedModel) -> None:
        backbone: Any = getattr(model, model.base_model_prefix)
        head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        model.add_module(HEAD, head.to(model.device))
        self.model = model
        self._collecting: list[torch.Tensor] | None = None
        self._hook = backbone.register_forward_hook(self._after_backbone)

    def _after_backbone(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if self._collecting is None:
            return
        value_BS = getattr(self.model, HEAD)(output.last_hidden_state).squeeze(-1)
        self._collecting.append(value_BS.float())

    @contextlib.contextmanager
    def collecting(self) -> Iterator[list[torch.Tensor]]:
        """Values (B, S) of every forward within the block, one tensor per forward."""
        before, self._collecting = self._collecting, []
        try:
            yield self._collecting
        finally:
            self._collecting = before

    @torch.no_grad()
    def fit_head(
        self,
        policy: Policy,
        reward: Any,
        prompts: Sequence[dict[str, Any]],
        *,
        number: int,
        seed: int,
    ) -> None:
        """Fit the head to Q̂ of completions of the policy as it is: ridge regression, in closed
        form.

        The value before every token of a completion is E[Q̂(s, a) | the tokens so far], so every
        position from the last of the prompt to the one before the last token is an example, with
        the tokens as they were drawn. A completion that was cut off is no action and has no Q̂: it
        is left out. An untrained critic would harm the first updates.

        Args:
            policy: The policy that the head sits on.
            reward: Q̂.
            prompts: Rows with a `prompt`.
            number: Of completions.
            seed: Of the choice of prompts and of the sampling.
        """
        chosen = random.Random(seed).choices(prompts, k=number)
        states = [row["prompt"] for row in chosen]
        self.model.eval()
        torch.manual_seed(seed)
        ended = [
            (state, drawn)
            for state, drawn in zip(states, sample(policy, states), strict=True)
            if drawn.tokens[-1] == policy.renderer.eos_id
        ]
        if not ended:
            self.model.train()
            return
        scores = reward([state for state, _ in ended], [drawn.text or "" for _, drawn in ended])
        pairs = [(policy.renderer.prompt_ids(state), drawn.tokens) for state, drawn in ended]
        backbone: Any = getattr(self.model, self.model.base_model_prefix)
        features, targets = [], []
        for batch in token_batches(
            [len(p) + len(a) for p, a in pairs], tokens_per_batch=8192, seed=None
        ):
            ids_BS = right_pad([[*pairs[i][0], *pairs[i][1]] for i in batch], value=0).to(
                self.model.device
            )
            hidden_BSD = backbone(input_ids=ids_BS, use_cache=False).last_hidden_state.float()
            for row, i in enumerate(batch):
                start, length = len(pairs[i][0]) - 1, len(pairs[i][1])
                features.append(hidden_BSD[row, start : start + length])
                targets.append(hidden_BSD.new_full((length,), scores[i]))
        weight_D, bias = _ridge(torch.cat(features), torch.cat(targets))
        head = getattr(self.model, HEAD)
        head.weight.copy_(weight_D.unsqueeze(0))
        head.bias.copy_(bias)
        self.model.train()


def head_of(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The value head's own, of the weights of a model that has one."""
    prefix = f"{HEAD}."
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def _ridge(feature_ND: torch.Tensor, target_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """argmin_w Σ (w·x + b − y)² + λ|w|², with λ a hundredth of the features' variance per example.

    Completions of one prompt are alike, so there are far fewer independent examples than rows; the
    penalty is what keeps the head from reading noise into the difference.
    """
    mean_D, mean = feature_ND.mean(dim=0), target_N.mean()
    centred_ND = (feature_ND - mean_D).double()
    gram_DD = centred_ND.T @ centred_ND
    penalty = 0.01 * gram_DD.diagonal().mean()
    gram_DD.diagonal().add_(penalty)
    weight_D = torch.linalg.solve(gram_DD, centred_ND.T @ (target_N - mean).double()).float()
    return weight_D, mean - mean_D @ weight_D
