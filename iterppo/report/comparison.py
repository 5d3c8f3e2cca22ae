"""`iterppo compare`: outcome rates of policies, from their trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iterppo.artifact import open_artifact
from iterppo.statistics.intervals import newcombe_interval, wilson_interval


def compare_outcomes(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Share of the conversations that ended with the outcome, per artifact; differences are to the
    first.

    Censored conversations are not counted in a rate, since their outcome is unknown; their number
    stands beside it.
    """
    results: list[dict[str, Any]] = []
    for folder in folders:
        ended = outcomes = censored = 0
        versions: set[str] = set()
        artifact = open_artifact(folder, "trajectories")
        for turns in artifact.conversations(
            ["conversation_id", "reward", "censored", "policy_version"]
        ):
            versions |= {turn["policy_version"] for turn in turns if turn["policy_version"]}
            if turns[0]["censored"]:
                censored += 1
            else:
                ended += 1
                outcomes += int(any(turn["reward"] > 0 for turn in turns))
        result: dict[str, Any] = {
            "trajectories": str(folder),
            "policy_versions": sorted(versions),
            "conversations": ended,
            "censored": censored,
            "outcomes": outcomes,
        }
        if ended:
            result["rate"] = outcomes / ended
            result["rate_low"], result["rate_high"] = wilson_interval(outcomes, ended)
            base = results[0] if results else None
            if base is not None and base["conversations"]:
                result["difference"] = result["rate"] - base["rate"]
                result["difference_low"], result["difference_high"] = newcombe_interval(
                    outcomes, ended, base["outcomes"], base["conversations"]
                )
        results.append(result)
    return results


def comparison_text(results: Sequence[dict[str, Any]]) -> str:
    """The comparison as a table."""
    lines = ["success rate with 95 % interval (Wilson); difference to the first (Newcombe)"]
    for result in results:
        name = ", ".join(result["policy_versions"]) or "policy unknown"
        if "rate" not in result:
            lines.append(f"  {name}: no conversation ended  {result['trajectories']}")
            continue
        text = (
            f"  {name}: {result['rate']:.3f} [{result['rate_low']:.3f}, {result['rate_high']:.3f}]"
            f"  of {result['conversations']}"
        )
        if result["censored"]:
            text += f" ({result['censored']} open)"
        if "difference" in result:
            low, high = result["difference_low"], result["difference_high"]
            text += f"  {result['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"{text}  {result['trajectories']}")
    return "\n".join(lines)
