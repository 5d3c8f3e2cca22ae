"""Least squares on the shop's own statistic, beside the exact Q."""

import numpy as np

from benchmarks.visible_q import SAYABLE, VisibleQ, pair_features, state_features
from iterppo.environments.shop import SCRIPTS, Shop
from iterppo.environments.shop_language import sayings
from iterppo.environments.shop_solution import ShopSolution, act_of


def held(number: int, *, script: str, name: str) -> list[list[dict[str, object]]]:
    """Rows of conversations."""
    found = []
    for n in range(number):
        shop, assistant = Shop(), Shop.scripted_assistant(n, script)
        seen, rows = shop.reset(n), []
        while not seen.done:
            row = {"conversation_id": f"{name}-{n}", "customer": seen.customer}
            row["suggestion"] = assistant.suggest(seen.customer or "", len(rows) + 1)
            seen = shop.step(row["suggestion"])
            rows.append(row | {"sent": seen.sent, "reward": float(seen.outcome)})
        found.append(rows)
    return found


def test_what_the_text_says_is_in_the_numbers() -> None:
    opening = {"customer": "Hi there, do you do renovations?"}
    (room,) = sayings("ask_project", "plain")[:1]
    asked = {**opening, "suggestion": room, "sent": room}
    told = {"customer": "We need to redo the kitchen, as soon as possible."}
    before, after = state_features([opening]), state_features([asked, told])

    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    act = act_of(room)
    assert not np.array_equal(pair_features(after, act), pair_features(after, None))


def test_it_comes_near_the_exact_q() -> None:
    log = held(1200, script="uniform", name="log")
    q = VisibleQ(log[:900], log[900:], gamma=0.99)
    exact = ShopSolution(SCRIPTS["uniform"], gamma=0.99)
    pairs = [
        (q(turns[: n + 1], row["suggestion"]), exact.value(turns[: n + 1], row["suggestion"]))
        for turns in held(120, script="uniform", name="other")
        for n, row in enumerate(turns)
    ]

    turns = [{"customer": "Hi there, do you do renovations?"}]
    texts = [None if act is None else sayings(*act)[0] for act in SAYABLE]
    np.testing.assert_allclose(
        q.of_acts(state_features(turns)), [q(turns, text) for text in texts], atol=1e-12
    )
    found, truth = np.array(pairs).T
    assert np.corrcoef(found, truth)[0, 1] > 0.5
    assert np.mean((found - truth) ** 2) < 0.75 * truth.var()
