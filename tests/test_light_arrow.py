"""Arrow without pandas, each time in a process of its own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pandas") is None, reason="Arrow finds no pandas anyhow"
)


def output_of(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


LEFT_OUT = """
import sys
import pyarrow as pa
from iterppo.engines.light_arrow import leave_pandas_out
leave_pandas_out()
"""


def test_arrays_are_made_without_pandas() -> None:
    code = "pa.array(['a']); pa.table({'a': [1]}).to_pylist(); print('pandas' in sys.modules)"
    assert output_of(LEFT_OUT + code) == "False"
    assert output_of("import sys, pyarrow as pa; " + code) == "True", "nothing to be gained"


def test_pandas_is_there_for_whoever_asks_for_it() -> None:
    code = "import pandas; print(pa.table({'a': [1, 2]}).to_pandas()['a'].sum(), pandas.NA)"
    assert output_of(LEFT_OUT + code) == "3 <NA>"


def test_a_process_that_has_pandas_keeps_it() -> None:
    code = "; leave_pandas_out(); print(pa.array(pandas.Series([1.0, None])).null_count)"
    assert output_of("import pandas\n" + LEFT_OUT + "pass" + code) == "1"


def test_workers_are_without_it() -> None:
    asked = "bool(__import__('pyarrow').array([1])) and 'pandas' in __import__('sys').modules"
    code = f"""
from iterppo.engines.processes import Processes
if __name__ == "__main__":
    print(*Processes(2).map_in_order(eval, [{asked!r}] * 2))
"""
    assert output_of(code) == "False False"
