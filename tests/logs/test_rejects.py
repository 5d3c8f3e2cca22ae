"""How reasons are counted: without what differs from line to line, with what says what is right."""

import pytest

from iterppo.logs.rejects import kind_of_reason
from iterppo.logs.times import shorten


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        pytest.param(
            "messages.17.outcome: Input should be 0 or 1",
            "messages.N.outcome: Input should be 0 or 1",
            id="the values that there are",
        ),
        pytest.param(
            "sent: 20260501.5 is no time in ISO 8601",
            "sent: N is no time in ISO 8601",
            id="the name of a standard",
        ),
        pytest.param(
            "time: '1e9' is no number of ms since 1970",
            "time: '…' is no number of ms since 1970",
            id="the year from which is counted",
        ),
        pytest.param(
            "time: -1e+30 is outside every calendar",
            "time: N is outside every calendar",
            id="a value",
        ),
        pytest.param(
            f"suggestion: {shorten('x' * 100)} is no text",
            "suggestion: '…' is no text",
            id="a value that is cut",
        ),
        pytest.param(
            "outcome: is 0, but messages.12 carries 1",
            "outcome: is 0, but messages.N carries 1",
            id="a place in the middle",
        ),
        pytest.param(
            "messages.3.content.0.text: half a character at 14",
            "messages.N.content.N.text: half a character at N",
            id="a place in a text",
        ),
        pytest.param("not UTF-8 at byte 7", "not UTF-8 at byte N", id="a place in a line"),
        pytest.param(
            "has 3 fields, the header has 2", "has N fields, the header has N", id="a length"
        ),
        pytest.param(
            "meta.size: is longer than 10000 characters",
            "meta.size: is longer than 10000 characters",
            id="a limit",
        ),
        pytest.param(
            "from: 2 is no role of the mapping: 0, 1",
            "from: 2 is no role of the mapping: 0, 1",
            id="a role",
        ),
    ],
)
def test_of_a_reason_stays_what_says_what_is_right(reason: str, kind: str) -> None:
    assert kind_of_reason(reason) == kind
