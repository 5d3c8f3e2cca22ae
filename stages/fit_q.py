"""`iterppo fit-q`: trajectories@1, returns@1, policy@1 -> q@1."""

import math
from pathlib import Path
from typing import Any

from iterppo.artifact import ArtifactWriter, Manifest, open_artifact
from iterppo.config import FitQConfig
from iterppo.errors import ArtifactError, DataError


def run(
    config: FitQConfig, *, trajectories: Path, returns: Path, policy: Path, out: Path
) -> Manifest:
    """Fit Q on the training conversations; score every turn; report on the held-out ones."""
    from iterppo.lm.policy import load_settings, model_folder, prepare_libraries
    from iterppo.lm.q_fitting import Target, fit
    from iterppo.lm.q_function import QFunction, QSettings
    from iterppo.lm.rendering import decisions

    prepare_libraries()
    source, targets_of = (
        open_artifact(trajectories, "trajectories"),
        open_artifact(returns, "returns"),
    )
    behaviour = open_artifact(policy)
    inputs = {
        "trajectories": source.record(),
        "returns": targets_of.record(),
        "policy": behaviour.record(),
    }
    settings = load_settings(policy)
    with ArtifactWriter(out, kind="q", stage="fit-q", config=config, inputs=inputs) as writer:
        q = QFunction.from_policy(
            model_folder(policy), QSettings(loss=config.loss, max_tokens=config.max_tokens)
        )
        segments: list[tuple[str, Target]] = []
        rows: list[list[dict[str, Any]]] = []
        for turns, paid in zip(source.conversations(), targets_of.conversations(), strict=True):
            if [(t["conversation_id"], t["turn"]) for t in turns] != [
                (p["conversation_id"], p["turn"]) for p in paid
            ]:
                raise ArtifactError(
                    f"{returns}: its turns are not those of {trajectories}. Run: iterppo returns"
                )
            made, too_long = q.renderer.segments(
                seen := list(decisions(turns, system_prompt=settings.system_prompt)),
                max_tokens=config.max_tokens,
            )
            writer.count("turns", len(turns))
            writer.count("turns_without_action", sum(turn.action is None for turn in seen))
            writer.count("turns_too_long", len(too_long))
            split = turns[0]["split"]
            for segment in made:
                known = [paid[index]["return"] for index, _ in segment.ends]
                values = [math.nan if g is None else g for g in known]
                weights = [
                    0.0 if g is None else paid[i]["weight"]
                    for g, (i, _) in zip(known, segment.ends, strict=True)
                ]
                segments.append(
                    (split, Target(turns[0]["conversation_id"], segment, values, weights))
                )
                rows.append(
                    [
                        {
                            "conversation_id": turns[index]["conversation_id"],
                            "turn": turns[index]["turn"],
                            "q_spread": None,
                            "return": g,
                            "weight": weight,
                            "split": split,
                        }
                        for (index, _), g, weight in zip(segment.ends, known, weights, strict=True)
                    ]
                )
                writer.count("turns_scored", len(segment.ends))
                writer.count(f"turns_{split}_with_return", sum(g is not None for g in known))
        try:
            fitted = fit(q, [target for split, target in segments if split == "train"], config)
        except ValueError as error:
            raise DataError(f"{trajectories}: {error}.") from None
        estimates = q.segment_values([target.segment for _, target in segments])
        for group, values in zip(rows, estimates, strict=True):
            for row, value in zip(group, values, strict=True):
                row["q"] = value
        writer.write(row for group in rows for row in group)
        metrics = _diagnose([row for group in rows for row in group], config)
        metrics["fit"] = {
            "loss": fitted.losses,
            "validation": fitted.validation,
            "best_epoch": fitted.best_epoch,
        }
        writer.write_json("metrics.json", metrics)
        writer.metrics["best_epoch"] = float(fitted.best_epoch)
        for name in (
            "explained_variance",
            "explained_variance_low",
            "explained_variance_high",
            "auc",
        ):
            writer.metrics[f"heldout_{name}"] = metrics["heldout"].get(name, math.nan)
        writer.metrics["better_than_constant"] = metrics["heldout"].get(
            "better_than_constant", False
        )
        q.save(writer.folder / "model")
    return writer.manifest


def _diagnose(rows: list[dict[str, Any]], config: FitQConfig) -> dict[str, Any]:
    from iterppo.statistics.regression import q_diagnostics

    known = {
        split: [
            row
            for row in rows
            if row["split"] == split and row["return"] is not None and row["weight"] > 0
        ]
        for split in ("train", "heldout")
    }
    mass = sum(row["weight"] for row in known["train"])
    constant = sum(row["weight"] * row["return"] for row in known["train"]) / mass
    return {
        split: q_diagnostics(
            [row["conversation_id"] for row in chosen],
            [row["q"] for row in chosen],
            [row["return"] for row in chosen],
            [row["weight"] for row in chosen],
            constant=constant,
            samples=config.bootstrap_samples,
            seed=config.seed,
        )
        if chosen
        else {}
        for split, chosen in known.items()
    }
