"""ITPO's claims, where the truth is known.

    python -m benchmarks.itpo [--quick] [--seeds N] [--environments NAME …] [--estimators NAME …]
                              [--methods NAME …] [--set NAME=VALUE …] [--runs DIR] [--out DIR]

Two parts, in the environments `tutor` and `shop`, with small models from scratch.

study: conversations of a fixed script, whose A^π(s_k, a_k) is known exactly. The implicit reward
model is updated batch by batch; at checkpoints it scores conversations that it is not trained on.
Rank stability of turn sums and of token rewards; how often the most and the least valuable turn are
found, beside guessing and beside MC-Q differences (Q̂ − V̂ by Monte Carlo on the same batches);
scale drift; Kendall's τ of the implicit sum with the outcome.

learning: multi-turn RLOO, GRPO and PPO in the environment (n = 8 conversations a prompt, one
customer each), the credit model updated on every batch, which it then scores, before the policy
step. Methods: `benchmarks.itpo_credit.METHODS`, all of them with RLOO in the tutor; what else there
is time for stands in `PLAN`.

Every run is a file under `--runs`, named by its settings, seed and method: a killed benchmark goes
on where it was. `--out` gets itpo.json (claims[name] = {holds, value, interval}) and itpo.png.
--set changes a number of `benchmarks.itpo_settings`; `--estimators` without a name: study alone.
--quick: one seed, the tutor only, few updates; it does not replace a full result, but writes
itpo_quick.json beside it. The last line printed is a JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.itpo_claims import late_success, learning_claims, study_claims
from benchmarks.itpo_credit import METHODS, Estimator
from benchmarks.itpo_figure import draw
from benchmarks.itpo_online import improve
from benchmarks.itpo_settings import QUICK, Settings
from benchmarks.itpo_statistics import over_seeds
from benchmarks.itpo_study import estimate, study
from benchmarks.itpo_worlds import WORLDS, first_policy
from benchmarks.kept_runs import once
from benchmarks.machine import machine
from iterppo.lm.policy import Policy, prepare_libraries

RESULTS = Path(__file__).resolve().parent / "results"
ESTIMATORS = ("rloo", "grpo", "ppo")
_PAPERS = ("outcome", "itpo", "norm-itpo-sum")
PLAN = {
    "tutor": {"rloo": METHODS, "grpo": _PAPERS, "ppo": _PAPERS},
    "shop": {"rloo": ("outcome", "norm-itpo-sum", "mc-q")},
}
QUICK_PLAN = {
    "tutor": {
        name: METHODS if name == "rloo" else ("outcome", "norm-itpo-sum") for name in ESTIMATORS
    }
}
"""What there is time for."""
SHARE_OF_UPDATES = {"tutor": 1.0, "shop": 0.5}
"""A shop's conversation takes several times as long."""


def main() -> None:
    """Run what was not run yet, sum up, draw."""
    options = _options()
    prepare_libraries()
    torch.set_num_threads(1)
    settings = changed(QUICK if options.quick else Settings(), options.set)
    seeds = options.seeds or (1 if options.quick else 5)
    environments = options.environments or (["tutor"] if options.quick else list(WORLDS))
    folder = Path(options.runs) / settings.digest()
    folder.mkdir(parents=True, exist_ok=True)
    studies: dict[str, list[Any]] = {name: [] for name in environments}
    curves: dict[str, dict[tuple[str, str], list[Any]]] = {name: {} for name in environments}
    for seed in range(seeds):
        for environment in environments:
            first = functools.cache(functools.partial(_first, environment, settings, seed))
            studies[environment].append(
                once(
                    folder / f"{environment}-study-{seed}.json",
                    functools.partial(_study, environment, first, settings, seed),
                )
            )
            plan = (QUICK_PLAN if options.quick else PLAN).get(environment, {})
            for estimator in options.estimators:
                for method in options.methods or plan.get(estimator, ()):
                    curve = once(
                        folder / f"{environment}-{estimator}-{method}-{seed}.json",
                        functools.partial(
                            _improve, environment, first, method, estimator, settings, seed
                        ),
                    )
                    curves[environment].setdefault((estimator, method), []).append(curve)
    result = summed_up(studies, curves, settings, quick=options.quick, seeds=seeds)
    file = _write(result, Path(options.out))
    draw(
        studies,
        curves,
        options.estimators,
        file.with_suffix(".png"),
        title=f"{seeds} seed{'s' if seeds > 1 else ''}{', quick' if options.quick else ''}",
    )
    for name, claim in result["claims"].items():
        low, high = claim["interval"]
        verdict = "holds" if claim["holds"] else "opposite" if claim["opposite"] else "not shown"
        print(f"{verdict:9}  {name}: {claim['value']:.3f} [{low:.3f}, {high:.3f}]")
    print(json.dumps({name: result[name] for name in ("quick", "seeds", "claims", "success")}))


def changed(settings: Settings, pairs: Sequence[str]) -> Settings:
    """Settings with some of them given anew, as `name=value`.

    >>> changed(Settings(), ["beta=0.5", "updates=3"]).updates
    3
    """
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    given = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in kinds:
            raise SystemExit(f"--set {pair}: no setting of this name; known: {', '.join(kinds)}")
        given[name] = kinds[name](value)
    return replace(settings, **given)


def summed_up(
    studies: dict[str, list[Any]],
    curves: dict[str, dict[tuple[str, str], list[Any]]],
    settings: Settings,
    *,
    quick: bool,
    seeds: int,
) -> dict[str, Any]:
    """Claims, and the tables that they come from."""
    claims: dict[str, Any] = {}
    success: dict[str, Any] = {}
    hit_rates: dict[str, Any] = {}
    for environment, runs in studies.items():
        claims |= study_claims(environment, runs)
        claims |= learning_claims(environment, curves[environment])
        hit_rates[environment] = {
            which: {
                score: _rounded([estimate(run[which][score]) for run in runs])
                for score in runs[0][which]
            }
            for which in ("best", "worst")
        }
        success[environment] = {
            f"{estimator} {method}": _rounded([late_success(curve) for curve in found])
            for (estimator, method), found in curves[environment].items()
        }
    return {
        "quick": quick,
        "seeds": seeds,
        "machine": machine(),
        "settings": asdict(settings),
        "claims": claims,
        "hit_rates": hit_rates,
        "success": success,
        "studies": studies,
        "curves": {
            environment: {" ".join(key): found for key, found in by_method.items()}
            for environment, by_method in curves.items()
        },
    }


def _rounded(estimates: list[Any]) -> list[float]:
    value, (low, high) = over_seeds(estimates)
    return [round(number, 4) for number in (value, low, high)]


def _first(environment: str, settings: Settings, seed: int) -> Policy:
    return first_policy(
        WORLDS[environment],
        conversations=settings.clone_conversations,
        hidden_size=settings.hidden_size,
        num_layers=settings.num_layers,
        max_steps=settings.clone_steps,
        learning_rate=settings.clone_learning_rate,
        seed=seed,
    )


def _study(
    environment: str, first: Callable[[], Policy], settings: Settings, seed: int
) -> dict[str, Any]:
    return study(WORLDS[environment], first(), settings, seed=seed)


def _improve(
    environment: str,
    first: Callable[[], Policy],
    method: str,
    estimator: str,
    settings: Settings,
    seed: int,
) -> list[dict[str, float]]:
    updates = int(settings.updates * SHARE_OF_UPDATES[environment])
    return improve(
        WORLDS[environment],
        first(),
        method=method,
        estimator=cast(Estimator, estimator),
        settings=replace(settings, updates=updates),
        seed=seed,
    )


def _write(result: dict[str, Any], out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "itpo.json"
    if result["quick"] and file.exists() and not json.loads(file.read_text())["quick"]:
        file = out / "itpo_quick.json"
    file.write_text(json.dumps(_short(result), indent=1) + "\n", encoding="utf-8")
    return file


def _short(content: Any) -> Any:
    """With five digits: nobody reads more, and hundreds of curves add up."""
    if isinstance(content, dict):
        return {key: _short(inner) for key, inner in content.items()}
    if isinstance(content, list | tuple):
        return [_short(inner) for inner in content]
    return float(f"{content:.5g}") if isinstance(content, float) else content


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.itpo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, tutor only, few updates")
    parser.add_argument("--seeds", type=int, help="number of seeds (5; quick: 1)")
    parser.add_argument("--environments", nargs="+", choices=list(WORLDS))
    parser.add_argument("--estimators", nargs="*", choices=ESTIMATORS, default=list(ESTIMATORS))
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings")
    parser.add_argument("--runs", default="runs/benchmarks/itpo", help="where runs are kept")
    parser.add_argument("--out", default=str(RESULTS), help="where the result is written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
