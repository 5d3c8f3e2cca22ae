"""The published contracts: one module per artifact kind, and the table of all of them."""

from iterppo.contracts.actions import ActionsRow
from iterppo.contracts.base import Row, contract_name
from iterppo.contracts.credit import CreditRow
from iterppo.contracts.evaluation import EvaluationRow
from iterppo.contracts.policy import PolicyRow
from iterppo.contracts.prompts import PromptsRow
from iterppo.contracts.q import QRow
from iterppo.contracts.rejects import RejectsRow
from iterppo.contracts.returns import ReturnsRow
from iterppo.contracts.trajectories import TrajectoriesRow

ROWS: dict[str, type[Row]] = {
    row.kind: row
    for row in (
        TrajectoriesRow,
        RejectsRow,
        ReturnsRow,
        ActionsRow,
        CreditRow,
        QRow,
        PromptsRow,
        EvaluationRow,
        PolicyRow,
    )
}
"""Kinds whose rows lie in Parquet parts, by name."""

FOLDER_KINDS: dict[str, int] = {"log": 1, "export": 1}
"""Kinds without rows (a log file, a Hugging Face folder), with their version."""


def known_versions(kind: str) -> tuple[int, ...]:
    """Versions of `kind` that this release reads; empty for an unknown kind."""
    if kind in ROWS:
        return ROWS[kind].readable_versions
    return (FOLDER_KINDS[kind],) if kind in FOLDER_KINDS else ()


def current_version(kind: str) -> int:
    """The version of `kind` that this release writes."""
    return ROWS[kind].version if kind in ROWS else FOLDER_KINDS[kind]


__all__ = ["FOLDER_KINDS", "ROWS", "Row", "contract_name", "current_version", "known_versions"]
