"""What is read of the last hidden state, and what it teaches the weights, is what it would be."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from iterppo.lm.read_positions import last_layer_at

POSITIONS = [[3, 7, 11], [0], [5, 5, 9]]


def backbone(model_type: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 64,
        "attn_implementation": "sdpa",
    }
    return AutoModel.from_config(AutoConfig.for_model(model_type, **shape | changes))


def read(model: Any, ids_BT: torch.Tensor, *, everywhere: bool) -> tuple[torch.Tensor, Any]:
    """What is read, and the gradients of a loss on it."""
    rows = [row for row, places in enumerate(POSITIONS) for _ in places]
    places = [place for places in POSITIONS for place in places]
    if everywhere:
        hidden_BTD = model(input_ids=ids_BT, use_cache=False).last_hidden_state
    else:
        with last_layer_at(model, POSITIONS):
            hidden_BTD = model(input_ids=ids_BT, use_cache=False).last_hidden_state
    found_ND = hidden_BTD[rows, places]
    weight_ND = torch.linspace(-1, 1, found_ND.numel()).view_as(found_ND)
    gradients = torch.autograd.grad((found_ND * weight_ND).sum(), list(model.parameters()))
    return found_ND, gradients


def assert_same(gradients: Any, wanted: Any) -> None:
    """But for rounding, in units of the largest entry of each."""
    for found, whole in zip(gradients, wanted, strict=True):
        scale = float(whole.abs().max())
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 4}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 8}),
        ("gpt_neox", {}),
        ("llama", {"attn_implementation": "eager"}),
    ],
    ids=[
        "shared keys",
        "keys of each head",
        "mistral",
        "a sliding window",
        "qwen2",
        "qwen3",
        "an unknown architecture",
        "another attention",
    ],
)
def test_values_and_gradients_are_those_of_the_whole_pass(
    model_type: str, changes: dict[str, Any]
) -> None:
    model = backbone(model_type, **changes)
    ids_BT = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))

    whole, gradients = read(model, ids_BT, everywhere=True)
    partly, learned = read(model, ids_BT, everywhere=False)

    torch.testing.assert_close(partly, whole, rtol=0, atol=1e-5)
    assert_same(learned, gradients)


def test_the_rest_of_the_last_layer_is_not_computed_and_nothing_stays_behind() -> None:
    model = backbone("llama")
    ids_BT = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))
    seen: list[torch.Size] = []
    watch = model.layers[-1].mlp.down_proj.register_forward_hook(
        lambda _, given, __: seen.append(given[0].shape)
    )

    with torch.no_grad(), last_layer_at(model, POSITIONS):
        model(input_ids=ids_BT, use_cache=False)
    with pytest.raises(RuntimeError, match="stops"), last_layer_at(model, POSITIONS):
        raise RuntimeError("stops")
    with torch.no_grad():
        model(input_ids=ids_BT, use_cache=False)
    watch.remove()

    assert seen == [(1, 6, 48), (3, 12, 48)]
    assert model.layers[-1].self_attn.config is model.config


def test_with_gradient_checkpointing_everything_is_computed() -> None:
    model = backbone("llama")
    ids_BT = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))
    _, gradients = read(model, ids_BT, everywhere=True)

    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    _, learned = read(model, ids_BT, everywhere=False)

    assert_same(learned, gradients)
