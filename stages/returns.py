"""`iterppo returns`: trajectories@2 (and credit@1) -> returns@1."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from iterppo.artifact import (
    Alongside,
    ArtifactWriter,
    Manifest,
    PartWriter,
    Stretch,
    alongside,
    open_artifact,
)
from iterppo.config import ReturnsConfig
from iterppo.engines import EngineName, open_engine
from iterppo.errors import UsageError
from iterppo.logs.censoring import fate_known_until
from iterppo.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from iterppo.rl.return_batches import Array, Moments, Weighting

TURNS_PER_PROCESS = 20_000_000
"""Fewer are done before another process has begun."""


def run(
    config: ReturnsConfig,
    *,
    trajectories: Path,
    out: Path,
    credit: Path | None = None,
    workers: int = 0,
    engine: EngineName = "local",
) -> Manifest:
    """The return of every turn, none where the conversation is censored; and its weight, which
    makes up for those. `workers` and `engine` are those of `open_engine`."""
    from iterppo.rl.return_batches import Moments, Weighting, sum_seen

    source = open_artifact(trajectories, "trajectories")
    inputs = {"trajectories": source.record()}
    stretches = source.stretches()
    beside: list[Alongside] | list[None] = [None] * len(stretches)
    if config.rewards == "credit":
        if credit is None:
            raise UsageError(
                "returns: rewards that are credit need a credit artifact. Run: iterppo credit, or "
                "name --credit."
            )
        credited = open_artifact(credit, "credit")
        inputs["credit"] = credited.record()
        beside = alongside(credited, stretches)
    until = fate_known_until(source.manifest.config)
    enough = 1 + source.manifest.rows // TURNS_PER_PROCESS
    with (
        ArtifactWriter(
            out, kind="returns", stage="returns", config=config, inputs=inputs
        ) as writer,
        open_engine(engine, workers=workers, enough=enough, threads=True) as pool,
    ):
        weighting = None
        if config.weights == "kaplan-meier":
            seen = pool.map_in_order(functools.partial(_count_seen, until), stretches)
            weighting = Weighting(sum_seen(seen), until, max_weight=config.max_weight)
        tasks = [
            (stretch, writer.next_part(), rewards)
            for stretch, rewards in zip(stretches, beside, strict=True)
        ]
        paid = pool.map_in_order(functools.partial(_pay, config.gamma, weighting), tasks)
        moments = Moments()
        for rows, counts, found in progress(paid, "returns", total=len(tasks), unit="parts"):
            writer.adopt(rows)
            for name, number in counts.items():
                writer.count(name, number)
            moments = moments.plus(found)
        writer.metrics.update(moments.metrics(weighting))
    return writer.manifest


def _count_seen(until: np.datetime64 | None, stretch: Stretch) -> Array:
    """The first pass over a stretch."""
    from iterppo.rl.return_batches import ANSWERED, SEEN, TIMES, count_seen, sum_seen

    batches = stretch.whole_batches([*SEEN, *ANSWERED, *([] if until is None else TIMES)])
    return sum_seen(count_seen(turns, until) for turns in batches)


def _pay(
    gamma: float, weighting: Weighting | None, task: tuple[Stretch, Path, Alongside | None]
) -> tuple[int, Counter[str], Moments]:
    """The second pass over a stretch: it becomes a part."""
    from iterppo.rl.return_batches import (
        ANSWERED,
        CREDITED,
        PAID,
        TIMES,
        Moments,
        pay,
        with_credit,
    )

    stretch, path, credit = task
    columns = [*PAID]
    if weighting is not None:
        columns += ANSWERED if weighting.fate_known_until is None else [*ANSWERED, *TIMES]
    counts, moments = Counter[str](), Moments()
    with PartWriter(path, "returns") as part:
        batches = stretch.whole_batches(columns)
        if credit is not None:
            batches = itertools.starmap(with_credit, credit.beside(batches, CREDITED))
        for turns in batches:
            paid = pay(turns, gamma=gamma, weighting=weighting)
            part.write(paid.rows)
            counts.update(paid.counts)
            moments = moments.plus(paid.moments)
    return part.rows, counts, moments
