"""A fitted text classifier as a judge of outcomes: texts -> probability of one label.

The folder is one that `transformers` saves for sequence classification. Nothing is downloaded, code
that comes with it is never run, and weights are safetensors only, since reading a pickle runs code.
Strings that look like control tokens are plain text, so that a customer cannot forge an outcome by
closing the sentence with one.

Shapes: B texts, T tokens, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Encoding, Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from iterppo.errors import UsageError
from iterppo.lm.policy import context_tokens, prepare_libraries
from iterppo.lm.training import right_pad, token_batches

TOKENS_PER_BATCH = 8_192
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def load_classifier(folder: Path | str, *, label: str) -> TextClassifier:
    """The classifier of a Hugging Face folder.

    Args:
        folder: With config, safetensors and tokenizer.
        label: Name of the label whose probability counts, or its index; empty: the last label.

    Raises:
        UsageError: If there is no such folder or label, or no fitted classifier in the folder.
    """
    prepare_libraries()
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Name one with a text classifier in it.")
    if not any(folder.glob("*.safetensors")):
        if any(file.suffix in _PICKLES for file in folder.iterdir()):
            raise UsageError(
                f"{folder}: its weights are pickled, and reading a pickle runs code. Save them as "
                "safetensors."
            )
        raise UsageError(f"{folder}: holds no weights in safetensors. Is this a text classifier?")
    model = _load_model(folder)
    if model.config.problem_type == "regression":
        raise UsageError(f"{folder}: is a regression; its output is no probability.")
    tokenizer = _load_tokenizer(folder, model)
    return TextClassifier(str(folder), model, tokenizer, _index_of(label, model, folder))


class TextClassifier:
    """Texts to the probability of one label. A text longer than the model's context is read from
    its beginning."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: Any, label: int) -> None:
        self.name = name
        self.model = model
        self.label = label
        config = model.config
        self.is_independent = config.num_labels == 1 or (
            config.problem_type == "multi_label_classification"
        )
        """Whether each label has a probability of its own (sigmoid), or all share one (softmax)."""
        text_config = config.get_text_config()
        if text_config.pad_token_id is None:  # decoders look for the last token that is none
            text_config.pad_token_id = tokenizer.pad_token_id
        self._pad_id: int | None = text_config.pad_token_id
        special = {number for number, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._control_ids = {*special, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        self._plain = _plain_tokenizer(tokenizer, _max_tokens(model, tokenizer))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The probability of the label, text by text; 0 where no token of a text is left.

        Raises:
            UsageError: If the model gives no number.
        """
        different = list(dict.fromkeys(texts))
        ids = [self._ids(encoding) for encoding in self._plain.encode_batch(different)]
        places = [place for place, sequence in enumerate(ids) if sequence]
        lengths = [len(ids[place]) for place in places]
        found = dict.fromkeys(different, 0.0)
        budget = TOKENS_PER_BATCH if self._pad_id is not None else 1  # without padding one by one
        for batch in token_batches(lengths, tokens_per_batch=budget, seed=None):
            chosen = [places[index] for index in batch]
            values = self._probabilities([ids[place] for place in chosen])
            found.update(zip((different[place] for place in chosen), values, strict=True))
        return [found[text] for text in texts]

    def _ids(self, encoding: Encoding) -> list[int]:
        """Without control tokens that the text itself spells, which some vocabularies cannot take
        apart."""
        return [
            number
            for number, is_ours in zip(encoding.ids, encoding.special_tokens_mask, strict=True)
            if is_ours or number not in self._control_ids
        ]

    def _probabilities(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        device = self.model.device
        ids_BT = right_pad(sequences, value=self._pad_id or 0).to(device)
        length_B = torch.tensor([len(sequence) for sequence in sequences], device=device)
        mask_BT = torch.arange(ids_BT.shape[1], device=device) < length_B[:, None]
        logit_BL = self.model(input_ids=ids_BT, attention_mask=mask_BT.long()).logits.float()
        if not torch.isfinite(logit_BL).all():
            raise UsageError(f"{self.name}: the classifier gives no numbers. Fit it again.")
        share_BL = logit_BL.sigmoid() if self.is_independent else logit_BL.softmax(dim=-1)
        values: list[float] = share_BL[:, self.label].tolist()
        return values


def _load_model(folder: Path) -> PreTrainedModel:
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{folder}: no text classifier to load ({reason}).") from None
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random weights
        raise UsageError(
            f"{folder}: is no fitted classifier, it lacks {missing[0]}. Fit it for sequence "
            "classification."
        )
    if torch.cuda.is_available():
        model.to("cuda")
    model.eval()
    assert isinstance(model, PreTrainedModel)
    return model


def _load_tokenizer(folder: Path, model: PreTrainedModel) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{folder}: no tokenizer to load ({reason}).") from None
    if not tokenizer.is_fast:
        raise UsageError(f"{folder}: not a fast tokenizer. Convert it to tokenizer.json first.")
    ids = set(tokenizer.get_vocab().values())
    if ids <= set(tokenizer.all_special_ids):  # transformers makes one up where there is none
        raise UsageError(f"{folder}: no tokenizer to load (it has no words). Add tokenizer.json.")
    embeddings: Any = model.get_input_embeddings()
    if max(ids) >= embeddings.weight.shape[0]:
        raise UsageError(
            f"{folder}: the tokenizer is another model's: it has {len(tokenizer)} tokens, the "
            f"model {embeddings.weight.shape[0]}."
        )
    return tokenizer


def _index_of(label: str, model: PreTrainedModel, folder: Path) -> int:
    config: Any = model.config
    count: int = config.num_labels
    names = [str(config.id2label.get(index, index)) for index in range(count)]
    if not label:
        return count - 1
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < count:
        return int(label)
    known = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    raise UsageError(f"{folder}: no label {label!r}. Known: {known}.")


def _max_tokens(model: PreTrainedModel, tokenizer: Any) -> int | None:
    """The longest text that the model can read; None where nobody says."""
    limits = [tokenizer.model_max_length]
    positions = context_tokens(model)
    if positions is not None and positions > 0:
        for name, module in model.named_modules():
            # In RoBERTa and its children positions begin behind that of the padding.
            padding = getattr(module, "padding_idx", None)
            if name.endswith("position_embeddings") and padding is not None:
                positions -= padding + 1
        limits.append(positions)
    limit: int = min(limits)
    return limit if limit < 10**9 else None  # a tokenizer without a limit says 10³⁰


def _plain_tokenizer(tokenizer: Any, max_tokens: int | None) -> Tokenizer:
    """The same tokenizer, for which control tokens in a text are text like any other."""
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.encode_special_tokens = True
    plain.no_padding()
    if max_tokens is None:
        plain.no_truncation()
    else:
        plain.enable_truncation(max_tokens)
    return plain
