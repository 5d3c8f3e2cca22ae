"""Q̂: a sequence-classification model on (s, a), read where the customer's answer would begin.

Shapes: B segments or pairs, T tokens, D hidden, N action ends in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from iterppo.errors import ArtifactError
from iterppo.lm.policy import load_tokenizer
from iterppo.lm.rendering import Message, Renderer, Segment
from iterppo.lm.training import right_pad, token_batches

SETTINGS = "iterppo_q.json"


class QSettings(BaseModel):
    """How the model's output becomes a value, and what it was fitted on."""

    model_config = ConfigDict(frozen=True)

    loss: Literal["bce", "squared"]
    max_tokens: int


class QFunction:
    """Q̂(s, a) as a callable on text turns; it tokenises by itself, whatever the policy's
    tokenizer."""

    def __init__(self, model: PreTrainedModel, renderer: Renderer, settings: QSettings) -> None:
        self.model = model
        self.renderer = renderer
        self.settings = settings
        self._pad_id: int = renderer.tokenizer.pad_token_id

    @classmethod
    def from_policy(cls, folder: Path, settings: QSettings) -> QFunction:
        """An untrained Q on the backbone of a policy. Its head starts at zero: every pair has the
        same value."""
        tokenizer = load_tokenizer(str(folder))
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        )
        torch.nn.init.zeros_(model.score.weight)
        return cls(model, Renderer(tokenizer), settings)

    @classmethod
    def load(cls, folder: Path) -> QFunction:
        """Load what `save` wrote."""
        try:
            settings = QSettings.model_validate_json(
                (folder / SETTINGS).read_text(encoding="utf-8")
            )
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{folder / SETTINGS}: cannot be read ({type(error).__name__}). Fit Q again."
            ) from None
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        return cls(model, Renderer(load_tokenizer(str(folder))), settings)

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and settings."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder, safe_serialization=True)
        self.renderer.tokenizer.save_pretrained(folder)
        (folder / SETTINGS).write_text(
            self.settings.model_dump_json(indent=2) + "\n", encoding="utf-8"
        )

    def raw(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Outputs of the head (logits under bce) at every action end of the segments, in order:
        shape (N,)."""
        device = self.model.device
        ids_BT = right_pad([segment.ids for segment in segments], value=self._pad_id).to(device)
        backbone: Any = getattr(self.model, self.model.base_model_prefix)
        # Right padding needs no attention mask in a causal model, and no end is ever looked for by
        # a pad id.
        hidden_BTD = backbone(input_ids=ids_BT, use_cache=False).last_hidden_state
        rows = [row for row, segment in enumerate(segments) for _ in segment.ends]
        positions = [position for segment in segments for _, position in segment.ends]
        score: Any = self.model.score
        values: torch.Tensor = score(hidden_BTD[rows, positions]).squeeze(-1).float()
        return values

    def to_value(self, raw_N: torch.Tensor) -> torch.Tensor:
        """Head output to an expected return."""
        return torch.sigmoid(raw_N) if self.settings.loss == "bce" else raw_N

    @torch.no_grad()
    def segment_values(
        self, segments: Sequence[Segment], *, tokens_per_batch: int = 8192
    ) -> list[list[float]]:
        """Values at the action ends of each segment."""
        self.model.eval()
        values: list[list[float]] = [[] for _ in segments]
        lengths = [len(segment.ids) for segment in segments]
        for batch in token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None):
            flat = iter(self.to_value(self.raw([segments[index] for index in batch])).tolist())
            for index in batch:
                values[index] = [next(flat) for _ in segments[index].ends]
        return values

    def __call__(self, states: Sequence[Sequence[Message]], actions: Sequence[str]) -> list[float]:
        """Q̂ of every (state, action).

        Args:
            states: Chat messages, the system message first.
            actions: Texts; "" is ∅.

        Returns:
            Values in discounted outcomes; a state that cannot be cut to the context raises.

        Raises:
            ArtifactError: If a last message is longer than the context that Q was fitted with.
        """
        segments = []
        for state, action in zip(states, actions, strict=True):
            ids = self.renderer.turn_ids(action.strip())
            fitted = self.renderer.fit(state, max_tokens=self.settings.max_tokens - len(ids))
            if fitted is None:
                raise ArtifactError(
                    f"q: a message of {len(state[-1]['content'])} characters exceeds its context "
                    "of "
                    f"{self.settings.max_tokens} tokens. Fit Q with a larger fit-q.max_tokens."
                )
            pair = self.renderer.prompt_ids(fitted[0]) + ids
            segments.append(Segment(pair, [(0, len(pair) - 1)]))
        return [value for (value,) in self.segment_values(segments)]
