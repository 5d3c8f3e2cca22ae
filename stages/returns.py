"""`iterppo returns`: trajectories@2 -> returns@1."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.artifact import ArtifactWriter, Manifest, open_artifact
from iterppo.config import ReturnsConfig, parse_duration

if TYPE_CHECKING:
    import numpy as np


def run(config: ReturnsConfig, *, trajectories: Path, out: Path) -> Manifest:
    """The return of every turn, none where the conversation is censored; and its weight, which
    makes up for those."""
    from iterppo.rl.return_batches import PAID, SEEN, TIMES, Moments, Weighting, pay

    source = open_artifact(trajectories, "trajectories")
    inputs = {"trajectories": source.record()}
    until = _fate_known_until(source.manifest.config)
    clock = [] if until is None else TIMES
    with ArtifactWriter(
        out, kind="returns", stage="returns", config=config, inputs=inputs
    ) as writer:
        weighting = None
        if config.weights == "kaplan-meier":
            batches = source.whole_batches([*SEEN, *clock])
            weighting = Weighting.of_log(batches, until, max_weight=config.max_weight)
        moments = Moments()
        for turns in source.whole_batches([*PAID, *(clock if weighting else [])]):
            paid = pay(turns, gamma=config.gamma, weighting=weighting)
            writer.write_table(paid.rows)
            for name, number in paid.counts.items():
                writer.count(name, number)
            moments = moments.plus(paid.moments)
        writer.metrics.update(moments.metrics(weighting))
    return writer.manifest


def _fate_known_until(ingested: Mapping[str, Any]) -> np.datetime64 | None:
    """Up to when it is known what followed a message, where the log was cut by a clock: the cutoff
    minus the silence that ends a conversation, or the wait for an event where that is longer."""
    import numpy as np

    if not ingested.get("cutoff"):
        return None
    waits = [outcome.get("window", "0s") for outcome in ingested["outcomes"]]
    silence = max(parse_duration(wait) for wait in (ingested["idle"], *waits))
    cutoff = datetime.fromisoformat(ingested["cutoff"])
    cutoff = cutoff.replace(tzinfo=UTC) if cutoff.tzinfo is None else cutoff.astimezone(UTC)
    return np.datetime64((cutoff - silence).replace(tzinfo=None), "us")
