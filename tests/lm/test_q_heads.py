"""Heads that read earlier turns: what they read, and that all ways to ask Q read the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from iterppo.config import FitQConfig
from iterppo.lm.branches import branch_members
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.q_heads import Heads, Place, Quadratic
from iterppo.lm.q_least_squares import fit_least_squares
from iterppo.lm.q_log import Conversation, conversations_of
from iterppo.lm.rendering import decisions

MakePolicy = Callable[..., Path]
MakeRow = Callable[..., dict[str, Any]]


def kernel(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (1 + one @ other.T / one.shape[1]) ** 2


def test_inner_products_are_the_kernels() -> None:
    torch.manual_seed(0)
    x_ND = torch.randn(30, 4) * torch.tensor([1.0, 5.0, 0.2, 1.0]) + 3.0
    lift = Quadratic.of(x_ND, rows=30, seed=0)
    standard = (x_ND - x_ND.mean(0)) / x_ND.std(0, correction=0)

    found = lift(x_ND)
    assert lift.rank == 15, "1, x and all squares and products of four numbers"
    torch.testing.assert_close(found @ found.T, kernel(standard, standard), rtol=1e-3, atol=1e-3)


def test_what_never_changed_says_nothing() -> None:
    x_ND = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    x_ND[:, 1] = 7.1
    x_ND[:, 2] *= 1e-4  # small beside the others, and not constant
    lift = Quadratic.of(x_ND, rows=30, seed=0)
    other = x_ND.clone()
    other[:, 1] = -1e4

    assert torch.equal(lift(x_ND), lift(other))
    assert torch.isfinite(lift(x_ND)).all()
    other[:, 2] = 0.0
    assert not torch.equal(lift(x_ND), lift(other))


def test_the_sums_are_of_the_turns_before() -> None:
    hidden_BTH = torch.arange(2 * 8 * 3, dtype=torch.float32).view(2, 8, 3)
    heads = Heads(3, 1, reads_history=True)
    first, third = Place(0, 1, 2, ()), Place(1, 6, 7, ((1, 2), (4, 5)))
    pair_ND, state_ND = heads.read(hidden_BTH, [first, third])

    h = hidden_BTH[1]
    nothing = torch.zeros(3)
    assert torch.equal(state_ND[0], torch.cat([*hidden_BTH[0, [1, 1]], nothing]))
    assert torch.equal(state_ND[1], torch.cat([h[6], h[1] + h[4] + h[6], h[2] + h[5]]))
    assert torch.equal(pair_ND[1], torch.cat([h[7], state_ND[1]]))


@pytest.fixture
def q(make_policy: MakePolicy) -> QFunction:
    settings = QSettings(loss="squared", max_tokens=96, members=3)
    return QFunction.from_policy(make_policy(steps=20), settings)


@pytest.fixture
def log(q: QFunction, row: MakeRow, system: str) -> list[Conversation]:
    """The longer ones do not fit Q's context."""
    pairs = []
    for n in range(24):
        said = [("yes", "no", "maybe")[(n * 5 + t * t) % 3] for t in range(2 + n % 6)]
        shared = {"conversation_id": f"c{n}", "split": "train", "censored": False}
        shared |= {"customer_time": None, "sent_time": None}
        pairs.append(
            (
                [
                    row(f"Hello {n % 7}, {t}", text, f"Sent {t}", "edited") | shared | {"turn": t}
                    for t, text in enumerate(said, start=1)
                ],
                [
                    {
                        "reward": float(t == len(said) and n % 2),
                        "return": float(n % 2),
                        "weight": 1.0,
                    }
                    for t in range(1, len(said) + 1)
                ],
            )
        )
    return list(
        conversations_of(
            pairs, q.renderer, system_prompt=system, max_tokens=96, fate_known_until=None
        )
    )


@pytest.fixture
def fitted(q: QFunction, log: list[Conversation]) -> QFunction:
    config = FitQConfig(method="lstd", ridge=3.0, compared_turns=40)
    fit_least_squares(q, log, config, gamma=0.9)
    return q


def test_all_ways_to_ask_read_the_same(
    fitted: QFunction, log: list[Conversation], system: str
) -> None:
    assert any(len(c.segments) > 1 for c in log), "one that does not fit the context"
    segments = [segment for c in log for segment in c.segments]
    of_log = iter(fitted.estimates(segments))
    number = 0
    for c in log:
        states = [d.state for d in decisions(c.rows, system_prompt=system)]
        for segment in c.segments:
            asked = [(end, c.rows[i]["suggestion"]) for end, (i, _) in enumerate(segment.ends)]
            ((*branches,),) = branch_members(fitted, [(segment, asked)])
            for (index, _), one, (branch, _) in zip(
                segment.ends, next(of_log), branches, strict=True
            ):
                action = c.rows[index]["suggestion"]
                alone = fitted([states[index]], [action])
                several = fitted([states[index]] * 2, [action, "something else"])
                assert [one.q, branch, several[0]] == pytest.approx(alone * 3, abs=1e-4)
                number += 1
    assert number > 60


def test_what_is_saved_is_what_was_fitted(
    fitted: QFunction, log: list[Conversation], tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    again = QFunction.load(tmp_path)
    segments = [segment for c in log for segment in c.segments]

    assert again.heads.reads_history
    for one, other in zip(fitted.estimates(segments), again.estimates(segments), strict=True):
        assert [e.q for e in one] == pytest.approx([e.q for e in other], abs=1e-6)
        assert [e.v for e in one] == pytest.approx([e.v for e in other], abs=1e-6)
        assert [e.spread for e in one] == pytest.approx([e.spread for e in other], abs=1e-6)


def test_the_model_that_is_saved_has_the_nearest_head_of_its_own(
    fitted: QFunction, log: list[Conversation], tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    own, values = [], []
    for segment in (segment for c in log for segment in c.segments):
        (estimates,) = fitted.estimates([segment])
        for (_, end), estimate in zip(segment.ends, estimates, strict=True):
            with torch.no_grad():
                hidden = model.base_model(torch.tensor([segment.ids])).last_hidden_state[0, end]
            own.append(float(model.score(hidden).detach()))
            values.append(estimate.q)
    both = torch.tensor([own, values])

    assert torch.corrcoef(both)[0, 1] > 0.5
    assert (both[0] - both[1]).square().mean() < both[1].var()
