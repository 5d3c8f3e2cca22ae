"""The fit of Q̂: it learns from what is known, by weight, and from nothing else."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iterppo.artifact import ArtifactWriter, open_artifact
from iterppo.config import FitQConfig, IngestConfig, InitConfig, ReturnsConfig
from iterppo.lm import policy as policies
from iterppo.lm.q_fitting import VALIDATION_SHARE, Target, fit, is_in_part, is_validation
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.rendering import Renderer, decisions
from iterppo.logs.sources import LogFile
from iterppo.logs.splits import split_of
from iterppo.stages import fit_q, ingest, returns
from iterppo.statistics.regression import auc

MakeRow = Callable[..., dict[str, Any]]
MakePolicy = Callable[..., Path]

BCE = QSettings(loss="bce", max_tokens=128)


def config(**settings: Any) -> FitQConfig:
    usual = {"learning_rate": 5e-3, "max_steps": 60, "epochs": 30, "tokens_per_batch": 2048}
    return FitQConfig.model_validate({**usual, **settings})


@pytest.fixture
def target(row: MakeRow, system: str, renderer: Renderer) -> Callable[..., Target]:
    """Makes the fitting target of a conversation of one-word exchanges."""

    def make(
        identity: str,
        actions: list[str],
        paid: list[float],
        weights: list[float] | None = None,
        customer: str = "Hi",
    ) -> Target:
        turns = decisions(
            [row(customer, action, action, "verbatim") for action in actions], system_prompt=system
        )
        (segment,), _ = renderer.segments(list(turns), max_tokens=128)
        return Target(identity, segment, paid, weights or [1.0] * len(paid))

    return make


WORDS = ["yes", "no", "maybe", "soon", "later"]


def log_where_one_word_decides(
    target: Callable[..., Target], number: int, start: int
) -> list[Target]:
    """Customers say this and that; what is returned depends on whether `yes` was answered."""
    made = []
    for n in range(start, start + number):
        actions = [WORDS[n % 5], WORDS[n // 5 % 5]]
        paid = [float(action == "yes") for action in actions]
        made.append(target(f"c{n}", actions, paid, customer=f"Hello {n % 7}"))
    return made


def test_one_word_that_decides_is_found(
    make_policy: MakePolicy, target: Callable[..., Target]
) -> None:
    q = QFunction.from_policy(make_policy(steps=0), BCE)
    fitted = fit(q, log_where_one_word_decides(target, 100, 0), config())
    unseen = log_where_one_word_decides(target, 60, 1000)
    values = q.segment_values([one.segment for one in unseen])
    predicted = np.array([value for found in values for value in found])
    paid = np.array([g for one in unseen for g in one.returns])

    assert auc(predicted, paid > 0) > 0.95
    assert fitted.losses[-1] < 0.5 * fitted.losses[0]
    assert predicted[paid == 1].mean() > 0.8
    assert predicted[paid == 0].mean() < 0.2
    assert not q.model.training


def weights_after(make_policy: MakePolicy, targets: list[Target], settings: FitQConfig) -> bytes:
    q = QFunction.from_policy(make_policy(steps=0), BCE)
    fit(q, targets, settings)
    return policies.tensors_as_bytes(
        {**q.model.state_dict(), **{f"head {k}": v for k, v in q.heads.state_dict().items()}}
    )


def test_a_turn_without_weight_contributes_nothing(
    make_policy: MakePolicy, target: Callable[..., Target]
) -> None:
    known = log_where_one_word_decides(target, 30, 0)

    def with_unknown(value: float) -> list[Target]:
        return [
            *known,
            target("mixed", ["yes", "no"], [1.0, value], [1.0, 0.0]),
            target("unknown", ["no", "no"], [value, value], [0.0, 0.0]),
        ]

    found = {
        weights_after(make_policy, with_unknown(value), config(max_steps=6))
        for value in (math.nan, 0.0, 1.0, 17.0)
    }
    assert len(found) == 1


def test_a_conversation_without_any_known_return_is_as_if_it_were_not_there(
    make_policy: MakePolicy, target: Callable[..., Target]
) -> None:
    known = log_where_one_word_decides(target, 30, 0)
    unknown = target("unknown", ["no", "no"], [math.nan, math.nan], [0.0, 0.0])
    settings = config(max_steps=6)

    assert weights_after(make_policy, [unknown, *known], settings) == weights_after(
        make_policy, known, settings
    )


@pytest.fixture
def every_epoch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No conversation is kept out of the gradient, by which the untrained Q could be the best."""
    monkeypatch.setattr("iterppo.lm.q_fitting.is_validation", lambda name, _: False)


@pytest.mark.usefixtures("every_epoch_counts")
def test_weights_weigh(make_policy: MakePolicy, target: Callable[..., Target]) -> None:
    # The same turn, paid 1 and 0: the estimate is the weighted mean.
    targets = [
        *(target(f"a{n}", ["yes"], [1.0], [3.0]) for n in range(8)),
        *(target(f"b{n}", ["yes"], [0.0], [1.0]) for n in range(8)),
    ]
    q = QFunction.from_policy(make_policy(steps=0), BCE)
    fit(q, targets, config(max_steps=40, epochs=100))
    (value,) = q.segment_values([targets[0].segment])[0]

    assert value == pytest.approx(0.75, abs=0.06)


def test_a_weight_is_not_measured_by_its_batch(
    make_policy: MakePolicy, target: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights depend on a conversation's length, and batches hold conversations of one length:
    # divided by the weights of their batch, they would cancel.
    losses: list[float] = []

    def minimise(
        _: Any, loss_of: Callable[[list[int]], torch.Tensor], *rest: Any, **named: Any
    ) -> Any:
        losses.extend(loss_of([index]).item() for index in range(2))
        return []

    monkeypatch.setattr("iterppo.lm.q_fitting.minimise", minimise)
    monkeypatch.setattr("iterppo.lm.q_fitting.is_validation", lambda name, _: False)
    targets = [target("a", ["yes"], [1.0], [3.0]), target("b", ["yes"], [1.0], [1.0])]
    fit(QFunction.from_policy(make_policy(steps=0), BCE), targets, config())

    assert losses[0] == pytest.approx(3 * losses[1])
    assert losses == pytest.approx([1.5 * 1.5 * math.log(2), 0.5 * 1.5 * math.log(2)])


def test_a_fit_depends_on_its_seed_and_on_nothing_else(
    make_policy: MakePolicy, target: Callable[..., Target]
) -> None:
    targets = log_where_one_word_decides(target, 30, 0)
    first, second, other = (
        weights_after(make_policy, targets, config(max_steps=4, tokens_per_batch=200, seed=seed))
        for seed in (1, 1, 2)
    )

    assert first == second
    assert first != other


@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_returns_that_are_no_probabilities_need_the_squared_loss(
    bad: float, make_policy: MakePolicy, target: Callable[..., Target]
) -> None:
    targets = [target("a", ["yes"], [0.5]), target("b", ["no"], [bad])]
    q = QFunction.from_policy(make_policy(steps=0), BCE)

    with pytest.raises(ValueError, match=r"bce needs \[0, 1\]\. .* fit-q.loss=squared"):
        fit(q, targets, config())


@pytest.mark.parametrize("loss", ["bce", "squared"])
@pytest.mark.parametrize("unknown", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_an_unknown_return_with_a_weight_is_an_error_and_not_a_zero(
    loss: str, unknown: float, place: int, make_policy: MakePolicy, target: Callable[..., Target]
) -> None:
    paid = [0.5, 0.5]
    paid[place] = unknown
    targets = [target("a", ["yes"], [paid[0]]), target("b", ["no"], [paid[1]])]
    q = QFunction.from_policy(
        make_policy(steps=0), QSettings.model_validate({"loss": loss, "max_tokens": 128})
    )

    with pytest.raises(ValueError):  # noqa: PT011 (any message that names the return will do)
        fit(q, targets, config(loss=loss))


def test_returns_of_any_size_can_be_fitted_by_the_squared_loss(
    make_policy: MakePolicy, target: Callable[..., Target]
) -> None:
    q = QFunction.from_policy(make_policy(steps=0), QSettings(loss="squared", max_tokens=128))
    targets = [target(f"c{n}", [WORDS[n % 2]], [-2.0 if n % 2 else 3.0]) for n in range(20)]
    fit(q, targets, config(loss="squared", max_steps=60, epochs=100))
    yes, no = (value for (value,) in q.segment_values([t.segment for t in targets[:2]]))

    assert yes == pytest.approx(3, abs=0.5)
    assert no == pytest.approx(-2, abs=0.5)


def test_nothing_to_learn_from_is_an_error(
    make_policy: MakePolicy, target: Callable[..., Target]
) -> None:
    q = QFunction.from_policy(make_policy(steps=0), BCE)

    with pytest.raises(ValueError, match="no training turn has both"):
        fit(q, [target("a", ["yes"], [math.nan], [0.0])], config())


def validation_loss(q: QFunction, targets: list[Target]) -> float:
    values = np.array(
        [v for found in q.segment_values([t.segment for t in targets]) for v in found]
    )
    paid = np.array([g for t in targets for g in t.returns])
    return float(-np.mean(paid * np.log(values) + (1 - paid) * np.log(1 - values)))


def test_the_epoch_that_predicts_best_is_kept(
    make_policy: MakePolicy, target: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Noise that can be learned by heart: what is kept out of the gradient gets worse in the end.
    paid = np.random.default_rng(0).integers(0, 2, 80).astype(float)
    targets = [target(f"c{n}", [WORDS[n % 5]], [paid[n]], customer=f"Hello {n}") for n in range(80)]
    kept_out = {f"c{n}" for n in range(40, 80)}
    monkeypatch.setattr("iterppo.lm.q_fitting.is_validation", lambda name, _: name in kept_out)
    q = QFunction.from_policy(make_policy(steps=0), BCE)
    fitted = fit(q, targets, config(max_steps=150, epochs=15, tokens_per_batch=200))

    assert len(fitted.validation) == 16
    assert fitted.validation[0] == pytest.approx(math.log(2), abs=1e-4)
    assert fitted.validation[-1] > min(fitted.validation), (
        "it did not get worse: nothing was chosen"
    )
    assert fitted.best_epoch == int(np.argmin(fitted.validation))
    assert validation_loss(q, targets[40:]) == pytest.approx(min(fitted.validation), abs=1e-4)


def test_where_nothing_can_be_learned_the_untrained_q_is_kept(
    make_policy: MakePolicy, target: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The validation conversations say the opposite of what is learned.
    targets = [
        *(target(f"a{n}", ["yes"], [1.0]) for n in range(10)),
        *(target(f"b{n}", ["yes"], [0.0]) for n in range(10)),
    ]
    monkeypatch.setattr("iterppo.lm.q_fitting.is_validation", lambda name, _: name.startswith("b"))
    q = QFunction.from_policy(make_policy(steps=0), BCE)
    fitted = fit(q, targets, config(max_steps=10))

    assert fitted.best_epoch == 0
    assert q.segment_values([targets[0].segment]) == [[0.5]]


@pytest.mark.parametrize("ingested_with", range(-1, 6))
def test_a_share_of_the_training_conversations_is_kept_out_whatever_the_seeds(
    ingested_with: int,
) -> None:
    names = [f"shop/{n}" for n in range(4000)]
    train = [n for n in names if split_of(n, heldout=0.2, seed=ingested_with) == "train"]
    kept_out = [name for name in train if is_validation(name, FitQConfig(seed=0))]

    assert len(kept_out) / len(train) == pytest.approx(VALIDATION_SHARE, abs=0.03)


# --- the stage ---


def write_log(file: Path, *, turned: set[str]) -> Path:
    """Sixty short conversations; those in `turned` end the other way."""
    with file.open("w", encoding="utf-8") as log:
        for n in range(60):
            identity, word = f"c{n}", WORDS[n % 5]
            outcome = int((word == "yes") != (identity in turned))
            messages = [
                {"role": "customer", "content": f"Hello {n % 3}"},
                {"role": "business", "content": word},
                {"role": "customer", "content": "And then?"},
                {"role": "business", "content": WORDS[n // 5 % 5]},
            ]
            line = {"conversation_id": identity, "messages": messages, "outcome": outcome}
            line |= {"customer_id": f"k{n // 3}"} if n < 30 else {}
            log.write(json.dumps(line) + "\n")
    return file


def fit_stage(folder: Path, policy: Path, *, turned: set[str], part: str = "all") -> Path:
    folder.mkdir()
    log = write_log(folder / "log.jsonl", turned=turned)
    trajectories, paid = folder / "trajectories", folder / "returns"
    ingest.run(
        IngestConfig(),
        logs=[LogFile(str(log), str(log))],
        out=trajectories,
        rejects=folder / "rejects",
    )
    returns.run(ReturnsConfig(), trajectories=trajectories, out=paid)
    fit_q.run(
        config(max_steps=8, bootstrap_samples=20, part=part),
        trajectories=trajectories,
        returns=paid,
        policy=policy,
        out=folder / "q",
    )
    return folder / "q"


def policy_artifact(out: Path, folder: Path) -> Path:
    """A policy of the test's, as the stages read it."""
    with ArtifactWriter(out, kind="policy", stage="init", config=InitConfig(), inputs={}) as writer:
        loaded = policies.load_policy(folder)
        policies.save_policy(
            writer.folder / "model",
            model=loaded.model,
            renderer=loaded.renderer,
            settings=loaded.settings.model_dump(exclude={"version"}),
        )
    return out


def weights(artifact: Path) -> bytes:
    return (artifact / "model" / "model.safetensors").read_bytes()


def test_the_halves_of_a_log_share_nothing_and_leave_nothing_out() -> None:
    names = [f"c{n}" for n in range(1000)]
    first, second = (
        {name for name in names if is_in_part(name, config(part=part, seed=seed))}
        for part, seed in (("first-half", 0), ("second-half", 7))
    )
    assert not first & second
    assert first | second == set(names)
    assert 430 < len(first) < 570
    assert all(is_in_part(name, config()) for name in names)


@pytest.mark.usefixtures("every_epoch_counts")
def test_a_q_of_one_half_is_a_stranger_to_the_other(
    make_policy: MakePolicy, tmp_path: Path
) -> None:
    policy = policy_artifact(tmp_path / "policy", make_policy(steps=0))
    settings = config(part="first-half")
    other = {f"c{n}" for n in range(60) if not is_in_part(f"c{n}", settings)}
    own = {f"c{n}" for n in range(60)} - other
    whole = fit_stage(tmp_path / "whole", policy, turned=set())
    first, second, third = (
        fit_stage(tmp_path / name, policy, turned=turned, part="first-half")
        for name, turned in (("first", set()), ("second", other), ("third", own))
    )
    assert weights(first) == weights(second)
    assert weights(first) != weights(third)
    assert weights(first) != weights(whole)


@pytest.mark.usefixtures("every_epoch_counts")
def test_held_out_conversations_take_no_part_in_the_fit(
    make_policy: MakePolicy, tmp_path: Path
) -> None:
    policy = policy_artifact(tmp_path / "policy", make_policy(steps=0))
    first = fit_stage(tmp_path / "first", policy, turned=set())
    rows = list(open_artifact(first, "q").rows())
    heldout = {row["conversation_id"] for row in rows if row["split"] == "heldout"}
    second = fit_stage(tmp_path / "second", policy, turned=heldout)
    third = fit_stage(tmp_path / "third", policy, turned={"c1", "c2"} - heldout)

    def metrics(artifact: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((artifact / "metrics.json").read_text())
        return found

    assert 3 <= len(heldout) <= 30
    assert len(rows) == 120
    assert weights(first) == weights(second)
    assert weights(first) != weights(third), "training conversations do take part"
    assert metrics(first)["train"] == metrics(second)["train"]
    assert metrics(first)["fit"] == metrics(second)["fit"]
    assert metrics(first)["heldout"] != metrics(second)["heldout"]


def test_intervals_are_by_customer_where_the_log_names_them(
    make_policy: MakePolicy, tmp_path: Path
) -> None:
    policy = policy_artifact(tmp_path / "policy", make_policy())
    q = fit_stage(tmp_path / "fit", policy, turned=set())
    heldout = {row["conversation_id"] for row in open_artifact(q).rows() if row["split"] != "train"}
    numbers = [int(name.removeprefix("c")) for name in heldout]
    independent = {f"k{n // 3}" if n < 30 else f"c{n}" for n in numbers}

    found = json.loads((q / "metrics.json").read_text(encoding="utf-8"))["heldout"]

    assert found["num_conversations"] == len(heldout)
    assert found["num_independent"] == len(independent) < len(heldout)
