"""The peer: every (s, a) a sequence of its own, through the stock `transformers.Trainer`.

What is changed of the Trainer is its loss alone, since returns have weights.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.training_clock import Time, TrainingClock
from iterppo.config import FitQConfig
from iterppo.lm.policy import load_tokenizer
from iterppo.lm.q_fitting import Target


@dataclass(frozen=True)
class Pair:
    """(s, a), as `Renderer.pair_ids` writes it, and what followed."""

    ids: list[int]
    return_: float
    weight: float

    def features(self) -> dict[str, Any]:
        """As the Trainer takes it."""
        return {"input_ids": self.ids, "labels": [self.return_, self.weight]}


@dataclass(frozen=True)
class PerTurn:
    """What came of the fit."""

    time: Time
    """In training mode."""
    steps: int
    values: list[float]
    """Q̂ of the held-out pairs."""


def pairs_of(targets: Iterable[Target]) -> list[Pair]:
    """The turns with a return, each by itself: a segment up to an end is the pair of that turn."""
    return [
        Pair(target.segment.ids[: end + 1], return_, weight)
        for target in targets
        for (_, end), return_, weight in zip(
            target.segment.ends, target.returns, target.weights, strict=True
        )
        if weight > 0
    ]


def fit_per_turn(
    folder: Path,
    config: FitQConfig,
    *,
    train: Sequence[Pair],
    validation: Sequence[Pair],
    heldout: Sequence[Pair],
    tokens_per_step: float,
) -> PerTurn:
    """Fit Q̂ from a policy's backbone and a head of zeros; keep the best epoch.

    Args:
        folder: Hugging Face folder of the policy.
        config: What `fit` is given.
        train: What is learned from.
        validation: What chooses the epoch; empty: the last one is kept.
        heldout: What is valued in the end.
        tokens_per_step: Real tokens of a step, on average.
    """
    tokenizer = load_tokenizer(str(folder))
    tokenizer.padding_side = "right"
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, pad_token_id=tokenizer.pad_token_id, dtype=torch.float32
    )
    torch.nn.init.zeros_(model.score.weight)
    mean_tokens = sum(len(pair.ids) for pair in train) / len(train)
    batch_size = max(1, round(tokens_per_step / mean_tokens))
    per_epoch = -(-len(train) // batch_size)
    with tempfile.TemporaryDirectory(prefix="iterppo-benchmark-") as unused:
        arguments = TrainingArguments(
            output_dir=unused,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=4 * batch_size,
            train_sampling_strategy="group_by_length",
            max_steps=min(config.max_steps, round(config.epochs * per_epoch)),
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=config.weight_decay,
            adam_beta2=0.98,
            seed=config.seed,
            eval_strategy="epoch" if validation else "no",
            eval_on_start=bool(validation),
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
        )
        best = _BestEpoch()
        trainer = _WeightedTrainer(
            model=model,
            args=arguments,
            train_dataset=_features(train),
            eval_dataset=_features(validation) if validation else None,
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            callbacks=[best],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.mean_weight = sum(pair.weight for pair in train) / len(train)
        with TrainingClock(model) as clock:
            trainer.train()
        if best.state:
            model.load_state_dict(best.state)
        logits: Any = trainer.predict(_features(heldout)).predictions
    values = torch.from_numpy(logits).squeeze(-1).sigmoid().tolist()
    return PerTurn(clock.time, trainer.state.global_step, values)


def _features(pairs: Sequence[Pair]) -> Any:
    return [pair.features() for pair in pairs]  # a list has what a map-style dataset needs


class _WeightedTrainer(Trainer):  # type: ignore[misc]
    mean_weight = 1.0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        labels_B2 = inputs.pop("labels")
        outputs = model(**inputs)
        loss_B = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs.logits.squeeze(-1), labels_B2[:, 0], reduction="none"
        )
        loss = (loss_B * labels_B2[:, 1]).mean() / self.mean_weight
        return (loss, outputs) if return_outputs else loss


class _BestEpoch(TrainerCallback):  # type: ignore[misc]
    """Keeps the parameters of the epoch whose validation loss is lowest, in memory; epoch 0 is the
    start."""

    def __init__(self) -> None:
        self.lowest = float("inf")
        self.state: dict[str, torch.Tensor] = {}

    def on_evaluate(self, _: Any, __: Any, ___: Any, **given: Any) -> None:
        loss = given["metrics"]["eval_loss"]
        if loss < self.lowest:
            self.lowest = loss
            self.state = copy.deepcopy(given["model"].state_dict())
