"""Arrow without pandas.

Where pandas is installed, the first array that Arrow makes imports it, only to ask whether what the
array is made of is a series of pandas'. That takes longer than all that a worker imports besides,
and nothing of ours hands a series to Arrow.
"""

from __future__ import annotations

import sys


def leave_pandas_out() -> None:
    """Let Arrow ask now, and find no pandas. It looks again where it cannot do without
    (`to_pandas`); a process that has pandas already keeps it."""
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)


class _NoPandas:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse pandas, and leave the rest to others."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out", name=name)
