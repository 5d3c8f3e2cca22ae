"""`iterppo rounds`: what came of each round, a line a round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iterppo.artifact import MANIFEST, Manifest, read_manifest
from iterppo.errors import ArtifactError
from iterppo.progress import duration, warn

HEADER = f"{'round':<12}{'success':<26}{'return':<10}{'Q':<24}{'KL':<10}time"


def rounds_of(folder: Path) -> list[Path]:
    """The round folders of a run, in order; of a round, itself.

    Raises:
        ArtifactError: If there is none.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: not found. Name a run, such as runs/shop, or a round of it."
        )
    if _members(folder):
        return [folder]
    found = sorted(
        (place for place in folder.iterdir() if place.name.isdecimal() and _members(place)),
        key=lambda place: int(place.name),
    )
    if not found:
        raise ArtifactError(
            f"{folder}: no round lies here. Name a run, such as runs/shop, whose rounds are called "
            "000, 001 and so on."
        )
    return found


def round_result(folder: Path) -> dict[str, Any]:
    """What is known of a round; None where its artifact is not there yet.

    success: share of its conversations that ended in the outcome, with Wilson's 95 % interval where
    they were simulated; return: mean of conversations, weighted for those that were still open;
    verdict: Q's; turns_earlier: of earlier rounds, that Q learned from besides; kl: of the policy
    that the round made, from the one before, in nats per completion; seconds: that making its
    artifacts took.
    """
    made = _artifacts(folder)
    log, returns, q, policy = (made.get(name) for name in ("log", "returns", "q", "policy"))
    turns = made.get("trajectories")
    result: dict[str, Any] = {"round": folder.name, "success": None, "low": None, "high": None}
    if log is not None and "outcome_rate" in log.metrics:
        result["success"] = log.metrics["outcome_rate"]
        result["low"] = log.metrics["outcome_rate_low"]
        result["high"] = log.metrics["outcome_rate_high"]
    elif turns is not None and turns.counts.get("conversations_terminal"):
        result["success"] = turns.counts["outcomes"] / turns.counts["conversations_terminal"]
    metrics: Mapping[str, Any] = policy.metrics if policy else {}
    times = [manifest.seconds for manifest in made.values()]
    return result | {
        "return": returns.metrics.get("mean_return_weighted") if returns else None,
        "verdict": q.metrics.get("verdict") if q else None,
        "turns_earlier": q.counts.get("turns_earlier", 0) if q else None,
        "kl": metrics.get("watched_kl_kept", metrics.get("kl_last")),
        "seconds": sum(s for s in times if s is not None) if any(times) else None,
    }


def round_line(result: Mapping[str, Any]) -> str:
    """A line under `HEADER`."""
    success = _number(result["success"])
    if result["low"] is not None:
        success += f" [{result['low']:.3f}, {result['high']:.3f}]"
    kl = "–" if result["kl"] is None else f"{result['kl']:z.2f} nat"
    verdict = result["verdict"] or "–"
    if result["turns_earlier"]:
        verdict += f", +{result['turns_earlier']:,} turns"
    took = "–" if result["seconds"] is None else duration(result["seconds"])
    return (
        f"{result['round']:<12}{success:<26}{_number(result['return']):<10}"
        f"{verdict:<24}{kl:<10}{took}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _members(folder: Path) -> list[Path]:
    """Folders of artifacts."""
    if not folder.is_dir():
        return []
    return [
        place
        for place in sorted(folder.iterdir())
        if place.name[0] != "." and (place / MANIFEST).exists()
    ]


def _artifacts(folder: Path) -> dict[str, Manifest]:
    """By the names of their folders; a damaged one is told of, and does not hide the others."""
    found = {}
    for place in _members(folder):
        try:
            found[place.name] = read_manifest(place)
        except ArtifactError as error:
            warn(str(error))
    return found
