"""Diagnostics of a log whose customers come back: a customer is drawn, with all conversations."""

from typing import Any

import numpy as np
import pytest

from iterppo.statistics.q_diagnostics import HeldOut, diagnose
from iterppo.statistics.resampling import Resamples

NUM = 60


def found(heldout: HeldOut) -> dict[str, Any]:
    return diagnose(heldout, constant=0.4, turn_means={1: 0.4}, sampled=None, samples=200, seed=0)


def log(*, copies: int, named: bool) -> HeldOut:
    """Customers who say and do the same in so many conversations."""
    generator = np.random.default_rng(0)
    q = generator.random(NUM).round(2)
    paid = (generator.random(NUM) < q).astype(float)
    names = [f"c{n:03}" for n in range(NUM) for _ in range(copies)]
    return HeldOut(
        conversation_id=[f"{name}-{n % copies}" for n, name in enumerate(names)],
        turn=[1] * len(names),
        state=["s"] * len(names),
        matched=["s"] * len(names),
        action=["yes" if x > 0.5 else "no" for x in q.repeat(copies)],
        q=q.repeat(copies).tolist(),
        state_value=[0.4] * len(names),
        return_=paid.repeat(copies).tolist(),
        weight=[1.0] * len(names),
        unit=names if named else None,
    )


def test_conversations_of_one_customer_say_as_much_as_one() -> None:
    once, again, blind = (
        found(log(copies=copies, named=named))
        for copies, named in ((1, False), (4, True), (4, False))
    )

    for name in ("explained_variance", "correlation", "auc", "discrimination", "calibration_error"):
        ends = [f"{name}_low", f"{name}_high"]
        assert [again[end] for end in ends] == pytest.approx([once[end] for end in ends])
        widths = [each[ends[1]] - each[ends[0]] for each in (again, blind)]
        assert widths[0] > 1.4 * widths[1], name
    assert (once["num_conversations"], once["num_independent"]) == (NUM, NUM)
    assert (again["num_conversations"], again["num_independent"]) == (4 * NUM, NUM)


def test_what_is_drawn_depends_on_the_units_alone() -> None:
    units = ["b", "b", "a", "c", "a"]
    rows = np.arange(10.0).reshape(5, 2)
    first, second = np.array([0, 1]), np.array([2, 3])
    by_unit = Resamples.of(list("vwxyz"), samples=30, seed=1, units=units)
    plain = Resamples.of(units, samples=30, seed=1)

    assert (by_unit.num_conversations, by_unit.num_units) == (5, 3)
    assert (by_unit.sums(rows) == plain.sums(rows)).all()
    chosen = np.array([0, 3])
    assert (by_unit.rows(chosen).sums(rows[chosen]) == plain.rows(chosen).sums(rows[chosen])).all()
    pairs = rows[:2]
    assert (by_unit.pair_sums(first, second, pairs) == plain.pair_sums(first, second, pairs)).all()


def test_many_conversations_of_few_customers_are_too_few() -> None:
    few = log(copies=1, named=False)
    customers = [f"k{n % 10}" for n in range(NUM)]

    told = found(HeldOut(**vars(few) | {"unit": customers}))

    assert told["verdict"] == "noise"
    assert told["verdict_reason"].startswith("Too few customers with held-out conversations")
