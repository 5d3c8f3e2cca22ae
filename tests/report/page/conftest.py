"""One run and its page, made once."""

from pathlib import Path

import pytest

from iterppo.report.page.html import report_page
from iterppo.report.page.run import read_run
from tests.report.page.made_run import write_run


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_run(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture(scope="session")
def page(made_run: Path) -> str:
    return report_page(read_run(made_run), conversations=40)[0]
