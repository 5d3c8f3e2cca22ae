"""Ids that were there before, against a slow reference."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.logs.repetitions import repeated


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), max_size=8), max_size=5),
    st.integers(1, 4),
)
def test_ids_that_were_there_before_are_found_however_many_are_looked_at_together(
    tasks: list[list[tuple[int, int]]], at_once: int
) -> None:
    expected: dict[int, dict[int, bool]] = {}
    content_of: dict[int, int] = {}
    for task, identities in enumerate(tasks):
        for place, (identity, content) in enumerate(identities):
            if identity in content_of:
                expected.setdefault(task, {})[place] = content == content_of[identity]
            elif identity:  # 0 is no id
                content_of[identity] = content
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("iterppo.logs.repetitions._IDS_AT_ONCE", at_once)
        files = [Path(name) / str(task) for task in range(len(tasks))]
        for file, identities in zip(files, tasks, strict=True):
            file.write_bytes(np.array(identities, dtype=np.uint64).tobytes())

        assert repeated(files) == expected
