"""What a roomy cache shows is what the library's growing one shows."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicSlidingWindowLayer

from iterppo.lm.roomy_cache import RoomyLayer, roomy_cache

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize("room", [1, 7, 9, 30], ids=["none", "too little", "just", "plenty"])
def test_rows_are_added_and_chosen_as_in_the_librarys_cache(room: int) -> None:
    config = LlamaConfig(**SHAPE)
    ours, theirs = roomy_cache(config, room=room), DynamicCache(config=config)
    generator = torch.Generator().manual_seed(0)
    rows = 3
    for new, chosen in ((5, [0, 1, 1, 2, 0]), (1, None), (1, [4, 1, 0]), (1, [2]), (1, None)):
        for layer in range(2):
            key, value = torch.randn(2, rows, 2, new, 8, generator=generator)
            ours.update(key, value, layer)
            theirs.update(key, value, layer)
        if chosen is not None:
            rows = len(chosen)
            ours.batch_select_indices(torch.tensor(chosen))
            theirs.batch_select_indices(torch.tensor(chosen))
        assert ours.get_seq_length() == theirs.get_seq_length()
        for layer in range(2):
            assert torch.equal(ours.layers[layer].keys, theirs.layers[layer].keys)
            assert torch.equal(ours.layers[layer].values, theirs.layers[layer].values)
    assert all(type(layer) is RoomyLayer for layer in ours.layers)


def test_layers_with_a_window_stay_the_librarys() -> None:
    cache = roomy_cache(MistralConfig(**SHAPE, sliding_window=4), room=9)

    assert [type(layer) for layer in cache.layers] == [DynamicSlidingWindowLayer] * 2
