"""Assignment: what the docs promise to other backends, and that it is fair."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iterppo.assignment import assign, parse_arms
from iterppo.errors import UsageError

DOCS = (Path(__file__).resolve().parent.parent / "docs" / "experiments.md").read_text("utf-8")
VECTORS = re.findall(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \| (\w+) \|$", DOCS, re.MULTILINE)
ARMS = st.dictionaries(st.text("abc", min_size=1), st.integers(1, 50), min_size=1, max_size=5)


def of_the_docs() -> Callable[..., str]:
    """The three lines of the docs."""
    (source,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names: dict[str, Callable[..., str]] = {}
    exec(source, {"hashlib": hashlib}, names)
    assert len(source.splitlines()) == 3
    return names["assign"]


@pytest.mark.parametrize(("key", "salt", "arms", "arm"), VECTORS, ids=lambda part: str(part))
def test_the_vectors_of_the_docs_are_right(key: str, salt: str, arms: str, arm: str) -> None:
    assert assign(key, salt=salt, arms=parse_arms(arms)) == arm


def test_the_docs_have_vectors_of_every_arm() -> None:
    assert len(VECTORS) >= 10
    for arms in {each[2] for each in VECTORS}:
        assert {arm for _, _, own, arm in VECTORS if own == arms} == set(parse_arms(arms))


@given(key=st.text(), salt=st.text("xyz-", min_size=1), arms=ARMS)
def test_the_three_lines_of_the_docs_do_the_same(key: str, salt: str, arms: dict[str, int]) -> None:
    slots = [name for name, weight in arms.items() for _ in range(weight)]
    assert of_the_docs()(key, salt, slots) == assign(key, salt=salt, arms=arms)


def test_the_query_of_the_docs_does_the_same() -> None:
    (query,) = re.findall(r"```sql\n(.*?)```", DOCS, re.DOTALL)
    keys = [f"customer-{number}" for number in range(200)]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE customers (customer_id VARCHAR)")
        connection.executemany("INSERT INTO customers VALUES (?)", [(key,) for key in keys])
        found = [arm for (arm,) in connection.execute(query).fetchall()]

    assert found == [assign(key, salt="greeting", arms={"a": 1, "b": 1}) for key in keys]


@pytest.mark.parametrize("arms", ["a,b", "a:9,b:1", "a:1,b:2,c:3"])
def test_arms_get_their_shares(arms: str) -> None:
    weights = parse_arms(arms)
    counts = Counter(assign(str(key), salt="fair", arms=weights) for key in range(20_000))

    expected = [weight / sum(weights.values()) * 20_000 for weight in weights.values()]
    assert stats.chisquare([counts[name] for name in weights], expected).pvalue > 0.001


def test_experiments_do_not_know_of_each_other() -> None:
    table = Counter(
        tuple(assign(str(key), salt=salt, arms={"a": 1, "b": 1}) for salt in ("one", "two"))
        for key in range(20_000)
    )
    rows = [[table[one, two] for two in "ab"] for one in "ab"]

    assert stats.chi2_contingency(rows).pvalue > 0.001


@pytest.mark.parametrize(
    ("salt", "arms", "said"),
    [
        ("", "a,b", "--salt '': name the experiment by a text without a colon, as greeting-1."),
        (
            "x:y",
            "a,b",
            "--salt 'x:y': name the experiment by a text without a colon, as greeting-1.",
        ),
        ("x", "", "--arms: names no arm. Write a,b or a:9,b:1."),
        ("x", "a,,b", "--arms: names no arm. Write a,b or a:9,b:1."),
        ("x", "a,a", "--arms a,a: a is named twice. Name each arm once."),
        ("x", "a:0,b", "--arms a:0: a weight is a whole number from 1 on."),
        ("x", "a:0.5,b", "--arms a:0.5: a weight is a whole number from 1 on."),
        ("x", "a:²,b", "--arms a:²: a weight is a whole number from 1 on."),
        (
            "x",
            "a:1048576,b",
            "--arms: weights add up to 1048577, above 1048576. Divide them all.",
        ),
    ],
    ids=["no salt", "colon", "none", "nameless", "twice", "no weight", "half", "sign", "too many"],
)
def test_what_cannot_be_assigned_is_one_line(salt: str, arms: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        assign("key", salt=salt, arms=parse_arms(arms))

    assert str(raised.value) == said
