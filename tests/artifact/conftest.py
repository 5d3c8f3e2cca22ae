"""An artifact that the tests of several files damage."""

from pathlib import Path

import pytest

from tests.artifact.made import reject, write


@pytest.fixture
def x(folder: Path) -> Path:
    """An artifact of kind rejects."""
    write(Path("x"), [reject(1)])
    return Path("x")
