"""Keys and values of what was read, in memory that is there from the start.

The library's growing cache copies all of it at every token; its static one attends to the whole
room at every token. This one writes into the room and shows the part that is filled.

Shapes: B sequences, H heads, S positions, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def roomy_cache(config: Any, *, room: int) -> DynamicCache:
    """An empty cache for a model of this configuration.

    Args:
        config: The model's.
        room: Positions, prompt and new tokens together. More may come: the layer then grows.
    """
    cache = DynamicCache(config=config)
    # Layers of another kind (a sliding window, a state) hold little, and keep their own ways.
    cache.layers = [
        RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, as the library's DynamicLayer shows them."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.keys: Any
        self.values: Any
        self._room = room
        self._there = 0  # positions that memory was taken for
        self._all_keys = self._all_values = torch.empty(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states (B, H, new, D) and show all that are there."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        filled = seen + key_states.shape[-2]
        if filled > self._there or not seen:
            self._make_room(key_states, value_states, seen, filled)
        self._all_keys[:, :, seen:filled] = key_states
        self._all_values[:, :, seen:filled] = value_states
        self._show(filled)
        return self.keys, self.values

    def _make_room(self, key: torch.Tensor, value: torch.Tensor, seen: int, filled: int) -> None:
        self._there = max(self._room, filled)
        before = self.keys, self.values
        self._all_keys = key.new_empty((*key.shape[:2], self._there, key.shape[3]))
        self._all_values = value.new_empty((*value.shape[:2], self._there, value.shape[3]))
        if seen:
            self._all_keys[:, :, :seen], self._all_values[:, :, :seen] = before

    def _show(self, filled: int) -> None:
        self.keys = self._all_keys[:, :, :filled]
        self.values = self._all_values[:, :, :filled]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may come several times."""
        filled = self.get_seq_length()
        if not filled:
            return
        # Row by row of what is filled; the rest of the room holds nothing worth copying.
        chosen = self.keys[indices], self.values[indices]
        shape = (len(indices), *self._all_keys.shape[1:])
        self._all_keys, self._all_values = (
            self._all_keys.new_empty(shape),
            self._all_values.new_empty((*shape[:3], self._all_values.shape[3])),
        )
        self._all_keys[:, :, :filled], self._all_values[:, :, :filled] = chosen
        self._show(filled)
