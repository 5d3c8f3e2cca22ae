"""Heads that read what people wrote: that all ways to ask Q read the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from iterppo.config import FitQConfig
from iterppo.errors import ArtifactError
from iterppo.lm.branches import branch_members
from iterppo.lm.q_function import HEADS, QFunction, QSettings
from iterppo.lm.q_heads import Heads, Place
from iterppo.lm.q_least_squares import OWN_HEAD_RIDGE, fit_least_squares
from iterppo.lm.q_log import Conversation, conversations_of
from iterppo.lm.rendering import Said, decisions

MakePolicy = Callable[..., Path]
MakeRow = Callable[..., dict[str, Any]]


def test_what_people_wrote_is_added_up() -> None:
    hidden_BTH = torch.arange(2 * 8 * 3, dtype=torch.float32).view(2, 8, 3)
    words_VE = torch.eye(5)[:, :4]
    heads = Heads(3, 1, reads_history=True)
    places = [Place(0, 1, 2, Said((4,), ())), Place(1, 6, 7, Said((0, 2, 0), (3, 1)))]
    pair_ND, state_ND = heads.read(hidden_BTH, places, words_VE=words_VE)

    nothing = torch.zeros(4)
    assert torch.equal(state_ND[0], torch.cat([hidden_BTH[0, 1], words_VE[4], nothing]))
    customer, business = torch.tensor([2.0, 0, 1, 0]), torch.tensor([0.0, 1, 0, 1])
    assert torch.equal(state_ND[1], torch.cat([hidden_BTH[1, 6], customer, business]))
    assert torch.equal(pair_ND[1], torch.cat([hidden_BTH[1, 7], state_ND[1]]))


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
                # Whitened numbers and their products show every rounding of the backbone.
                assert [one.q, branch, several[0]] == pytest.approx(alone * 3, abs=1e-3)
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


def test_heads_of_another_kind_are_refused_in_a_line(fitted: QFunction, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    weights = load_file(tmp_path / HEADS)
    renamed = {name.replace("predictive.", "pair_lift."): w for name, w in weights.items()}
    lacking = {name: w for name, w in weights.items() if name != "predictive.rows_LD"}
    for others in (renamed, lacking):
        save_file(others, tmp_path / HEADS)
        with pytest.raises(ArtifactError, match="Fit Q again"):
            QFunction.load(tmp_path)


def test_a_log_without_an_end_says_what_to_do(q: QFunction, log: list[Conversation]) -> None:
    still_open = [replace(c, fates_known=[*c.fates_known[:-1], False]) for c in log]
    config = FitQConfig(method="lstd", compared_turns=40)
    with pytest.raises(ValueError, match="compared_turns=0"):
        fit_least_squares(q, still_open, config, gamma=0.9)


def test_the_model_that_is_saved_has_the_nearest_head_of_its_own(
    fitted: QFunction, log: list[Conversation], tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).float().eval()
    hiddens, own, values = [], [], []
    for segment in (segment for c in log for segment in c.segments):
        (estimates,) = fitted.estimates([segment])
        for (_, end), estimate in zip(segment.ends, estimates, strict=True):
            with torch.no_grad():
                hidden = model.base_model(torch.tensor([segment.ids])).last_hidden_state[0, end]
            hiddens.append(hidden)
            own.append(float(model.score(hidden).detach()))
            values.append(estimate.q)
    own_N, value_N = torch.tensor([own, values]).double()
    hidden_NH = torch.stack(hiddens).double()
    moment_HH = hidden_NH.T @ hidden_NH
    pull = OWN_HEAD_RIDGE * moment_HH.trace() / (len(hidden_NH) * len(moment_HH))
    nearest_H = torch.linalg.solve(
        moment_HH + pull * torch.eye(len(moment_HH)), hidden_NH.T @ value_N
    )

    torch.testing.assert_close(own_N, hidden_NH @ nearest_H, atol=1e-4, rtol=0)
    assert (own_N - value_N).square().mean() < value_N.var()
