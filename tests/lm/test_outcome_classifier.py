"""A text classifier from a folder: which probability it gives, and which folders are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from iterppo.errors import UsageError
from iterppo.lm import outcome_classifier
from iterppo.lm.outcome_classifier import TextClassifier, load_classifier
from iterppo.lm.rendering import Renderer
from iterppo.logs.outcomes import Label, from_classifier
from iterppo.logs.records import LogConversation, LogMessage

WITH = ["I order it now.", "Yes, I order the kitchen!", "then I order", "order please"]
WITHOUT = ["I look at it now.", "Yes, the kitchen!", "then I wait", "hello please", "no", "the ["]
CONTEXT = 16
Spy = list[list[list[int]]]


def wordpiece(
    pre_tokenizer: pre_tokenizers.PreTokenizer | None = None,
) -> PreTrainedTokenizerFast:
    """As BERT's: [CLS] text [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=special, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator([*WITH, *WITHOUT, "[SEP] ]"], trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def bert(tokenizer: PreTrainedTokenizerFast, **settings: Any) -> Any:
    torch.manual_seed(0)
    settings = {"id2label": {0: "no", 1: "order"}, "label2id": {"no": 0, "order": 1}, **settings}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    return BertForSequenceClassification(config)


def llama(tokenizer: PreTrainedTokenizerFast, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        max_position_embeddings=CONTEXT,
        eos_token_id=tokenizer.eos_token_id,
        **settings,
    )
    return LlamaForSequenceClassification(config)


def save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of a few thousand weights that knows the word `order`."""
    tokenizer = wordpiece()
    model = bert(tokenizer)
    batch = tokenizer([*WITH, *WITHOUT], padding=True, return_tensors="pt")
    labels = torch.tensor([1] * len(WITH) + [0] * len(WITHOUT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    return save(tmp_path_factory.mktemp("classifier"), model, tokenizer)


def spy_on(classifier: TextClassifier) -> Spy:
    """Rows of token ids that the model is given from now on, padding included."""
    given: Spy = []

    def remember(*_: Any, **inputs: Any) -> None:
        given.append(inputs["kwargs"]["input_ids"].tolist())

    classifier.model.register_forward_pre_hook(
        lambda module, args, kwargs: remember(kwargs=kwargs), with_kwargs=True
    )
    return given


def refusal(folder: Path, label: str = "") -> str:
    with pytest.raises(UsageError) as raised:
        load_classifier(folder, label=label)
    return str(raised.value).replace(str(folder), "FOLDER")


# --- probabilities -------------------------------------------------------------------------------


def test_a_classifier_recognises_what_it_was_taught(taught: Path) -> None:
    probabilities = load_classifier(taught, label="order")([*WITH, *WITHOUT])

    assert min(probabilities[: len(WITH)]) > 0.9
    assert max(probabilities[len(WITH) :]) < 0.1


def test_a_classifier_finds_the_message_with_the_outcome(taught: Path) -> None:
    texts = ["hello please", "I order it now.", "then I wait", "I order it now."]
    messages = [LogMessage("business", WITH[0]), *(LogMessage("customer", text) for text in texts)]
    label = from_classifier(load_classifier(taught, label="order"), threshold=0.5)

    labels = label([LogConversation("c", messages), LogConversation("d", messages[:2])])

    assert labels == [Label(True, 2), Label(False)]


@pytest.mark.parametrize(
    ("label", "sign"),
    [
        pytest.param("order", 1, id="name"),
        pytest.param("1", 1, id="index"),
        pytest.param("", 1, id="the last one"),
        pytest.param("no", -1, id="another name"),
        pytest.param("0", -1, id="another index"),
    ],
)
def test_the_label_is_chosen_by_name_or_index(taught: Path, label: str, sign: int) -> None:
    with_it, without = load_classifier(taught, label=label)(["I order it now.", "then I wait"])

    assert (with_it - without) * sign > 0.8


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, lambda z: z.softmax(-1), id="labels that exclude each other"),
        pytest.param(
            {"problem_type": "multi_label_classification"}, torch.sigmoid, id="several labels"
        ),
        pytest.param(
            {"id2label": {0: "order"}, "label2id": {"order": 0}}, torch.sigmoid, id="one label"
        ),
    ],
)
def test_the_probability_is_of_the_kind_that_the_labels_are(
    tmp_path: Path, settings: dict[str, Any], expected: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    tokenizer = wordpiece()
    model = bert(tokenizer, **settings).eval()
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    folder = save(tmp_path, model, tokenizer)
    with torch.no_grad():
        logits = model(**tokenizer(WITH[0], return_tensors="pt")).logits

    (probability,) = load_classifier(folder, label="order")([WITH[0]])

    assert probability == pytest.approx(expected(logits)[0, -1].item(), abs=1e-6)
    assert abs(probability - 0.5) > 0.01


@pytest.mark.parametrize("kind", ["encoder", "decoder", "decoder without padding"])
def test_a_text_has_the_same_probability_in_every_company(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    taught: Path,
    renderer: Renderer,
    kind: str,
) -> None:
    folder = taught
    if kind != "encoder":
        model = llama(renderer.tokenizer, pad_token_id=renderer.tokenizer.pad_token_id)
        torch.nn.init.normal_(model.score.weight, std=3.0)
        folder = save(tmp_path, model, renderer.tokenizer)
    classifier = load_classifier(folder, label="")
    if kind == "decoder without padding":
        classifier.model.config.pad_token_id = classifier._pad_id = None
    if kind == "encoder":  # less sure of itself, so that every difference shows
        head: Any = classifier.model.classifier
        head.weight.data *= 0.2
    given = spy_on(classifier)
    texts = [*WITH, *WITHOUT, WITH[1], "no"]

    together = classifier(texts)
    num_batches = len(given)
    monkeypatch.setattr(outcome_classifier, "TOKENS_PER_BATCH", 20)
    backwards = classifier(texts[::-1])
    alone = [classifier([text])[0] for text in texts]

    assert together == pytest.approx(alone, abs=1e-5)
    assert backwards == pytest.approx(alone[::-1], abs=1e-5)
    assert max(alone) - min(alone) > 0.05
    num_different = len({*texts})
    assert num_batches == (num_different if kind == "decoder without padding" else 1)
    assert all(len(rows) == 1 or len(rows) * len(rows[0]) <= 20 for rows in given[num_batches:])


def test_a_text_longer_than_the_context_is_read_from_its_beginning(taught: Path) -> None:
    classifier = load_classifier(taught, label="order")
    given = spy_on(classifier)

    short = classifier(["I order the kitchen" + " hello" * 10])
    long = classifier(["I order the kitchen" + " hello" * 10_000])

    (short_row,), (long_row,) = given
    assert long_row == short_row
    assert len(long_row) == CONTEXT
    assert long == short


def test_the_padding_of_roberta_takes_positions_away(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id + 1,
    )
    model = RobertaForSequenceClassification(config)
    classifier = load_classifier(save(tmp_path, model, tokenizer), label="")
    given = spy_on(classifier)

    assert 0 < classifier(["then I wait " * 100])[0] < 1
    assert [len(row) for rows in given for row in rows] == [CONTEXT - 2]


# --- control tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pre_tokenizer", "spelled"),
    [
        pytest.param(pre_tokenizers.BertPreTokenizer(), True, id="a vocabulary that can spell it"),
        pytest.param(pre_tokenizers.WhitespaceSplit(), False, id="one that cannot"),
    ],
)
def test_control_tokens_that_a_customer_typed_are_text(
    tmp_path: Path, pre_tokenizer: pre_tokenizers.PreTokenizer, spelled: bool
) -> None:
    tokenizer = wordpiece(pre_tokenizer)
    classifier = load_classifier(save(tmp_path, bert(tokenizer), tokenizer), label="order")
    given = spy_on(classifier)
    forged = "then [SEP] [CLS] I [PAD] wait [MASK]"

    classifier([forged])

    (((first, *inside, last),),) = given
    control = {tokenizer.convert_tokens_to_ids(t) for t in ("[SEP]", "[CLS]", "[PAD]", "[MASK]")}
    assert control & set(tokenizer(forged, add_special_tokens=False)["input_ids"]) == control
    assert tokenizer.convert_ids_to_tokens([first, last]) == ["[CLS]", "[SEP]"]
    assert not control & set(inside)
    assert (tokenizer.convert_tokens_to_ids("]") in inside) == spelled


def test_a_decoders_control_tokens_are_text_too(tmp_path: Path, renderer: Renderer) -> None:
    tokenizer = renderer.tokenizer
    model = llama(tokenizer, pad_token_id=tokenizer.pad_token_id)
    classifier = load_classifier(save(tmp_path, model, tokenizer), label="")
    given = spy_on(classifier)

    classifier(["<|pad|> <|end|>"])

    ((row,),) = given
    assert tokenizer.decode(row) == "<|pad|> <|end|>"
    assert not set(tokenizer.all_special_ids) & set(row)


def test_of_nothing_the_probability_is_zero(tmp_path: Path, renderer: Renderer) -> None:
    model = llama(renderer.tokenizer, pad_token_id=renderer.tokenizer.pad_token_id)
    classifier = load_classifier(save(tmp_path, model, renderer.tokenizer), label="")

    nothing, something = classifier(["", "hello"])

    assert nothing == 0.0
    assert something > 0.0
    assert classifier([]) == []


# --- folders that are refused --------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == (
        "FOLDER: no such folder. Name one with a text classifier in it."
    )


@pytest.mark.parametrize("label", ["yes", "2", "-1", "Order"])
def test_a_label_that_is_not_there_is_refused_with_those_that_are(taught: Path, label: str) -> None:
    assert refusal(taught, label) == f"FOLDER: no label {label!r}. Known: 0 (no), 1 (order)."


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def _bare(folder: Path) -> None:
    BertModel(bert(wordpiece()).config).save_pretrained(folder)


def _with_config(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        bert(wordpiece(), **settings).save_pretrained(folder)

    return change


def _larger_tokenizer(folder: Path) -> None:
    tokenizer = wordpiece()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(folder)


def _cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(_pickled, "its weights are pickled", id="pickled weights"),
        pytest.param(_without("model.safetensors"), "no weights in safetensors", id="no weights"),
        pytest.param(_bare, "is no fitted classifier, it lacks classifier.bias", id="no head"),
        pytest.param(_with_config(problem_type="regression"), "is a regression", id="a regression"),
        pytest.param(_larger_tokenizer, "the tokenizer is another model's", id="other tokenizer"),
        pytest.param(_cut_off, "no text classifier to load", id="half a file"),
        pytest.param(_without("config.json"), "no text classifier to load", id="no config"),
        pytest.param(
            _without("tokenizer.json", "tokenizer_config.json"),
            "no tokenizer to load",
            id="no tokenizer",
        ),
    ],
)
def test_a_folder_without_a_fitted_classifier_is_refused(
    tmp_path: Path, taught: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "classifier"
    shutil.copytree(taught, folder)
    damage(folder)

    message = refusal(folder)

    assert message.startswith("FOLDER: ")
    assert said in message
    assert "\n" not in message


def test_a_classifier_that_gives_no_numbers_is_refused(taught: Path) -> None:
    classifier = load_classifier(taught, label="")
    with torch.no_grad():
        for weight in classifier.model.parameters():
            weight.fill_(float("nan"))

    with pytest.raises(UsageError, match="gives no numbers"):
        classifier(["hello"])
