"""Times as logs write them."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.errors import UsageError
from iterppo.logs.times import PER_SECOND, read_time, zone_of

TEN = datetime(2026, 5, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("2026-05-01T10:00:00Z", id="ISO 8601"),
        pytest.param("2026-05-01T12:00:00+02:00", id="another zone"),
        pytest.param("20260501T100000", id="without marks, without a zone"),
        pytest.param(" 2026-05-01 10:00 ", id="with blanks around"),
        pytest.param("2026-05-01 10:00:00 UTC", id="as BigQuery writes it"),
        pytest.param("2026-05-01 12:00:00.000 +0200", id="as Snowflake writes it"),
        pytest.param("2026-05-01 10:00:00+00", id="as PostgreSQL writes it"),
        pytest.param("2026-05-01 10:00:00.000000999", id="in nanoseconds"),
        pytest.param(1777629600, id="seconds"),
        pytest.param(1777629600.0, id="seconds with decimals"),
        pytest.param(Decimal("1777629600"), id="seconds in a decimal"),
        pytest.param(1777629600000, id="milliseconds"),
        pytest.param(1777629600000000, id="microseconds"),
        pytest.param(1777629600000000999, id="nanoseconds"),
        pytest.param("1777629600", id="seconds as text"),
        pytest.param("1777629600000", id="milliseconds as text"),
        pytest.param("1.7776296e9", id="seconds as a spreadsheet writes them"),
        pytest.param(TEN, id="a datetime"),
        pytest.param(TEN.replace(tzinfo=None), id="a datetime without a zone"),
        pytest.param(
            TEN.astimezone(timezone(timedelta(hours=-9))), id="a datetime of another zone"
        ),
    ],
)
def test_a_moment_is_read_in_whatever_form(value: Any) -> None:
    assert read_time(value) == TEN


@pytest.mark.parametrize("value", [None, "", float("nan")], ids=["null", "empty", "not a number"])
@pytest.mark.parametrize("time_format", ["iso", "ms", "%d/%m/%Y"])
def test_where_no_time_is_there_is_none(value: Any, time_format: str) -> None:
    assert read_time(value, time_format) is None


@pytest.mark.parametrize(
    ("value", "time_format", "reason"),
    [
        pytest.param("soon", "iso", "'soon' is no time in ISO 8601", id="a word"),
        pytest.param("soon", "s", "'soon' is no number of s since 1970", id="a word for a number"),
        pytest.param("1_0", "s", "'1_0' is no number of s since 1970", id="a number of Python's"),
        pytest.param(
            "2026-05-01", "%d/%m/%Y", "'2026-05-01' does not match '%d/%m/%Y'", id="not the pattern"
        ),
        pytest.param(True, "iso", "True is no time", id="true"),
        pytest.param([1], "iso", "[1] is no time", id="a list"),
        pytest.param(
            "20260501100000",
            "iso",
            "'20260501100000' is a number of no known unit",
            id="a date written as a number",
        ),
        pytest.param(
            "0001-01-01T00:00:00+10:00",
            "iso",
            "'0001-01-01T00:00:00+10:00' is outside every calendar",
            id="before the first year",
        ),
        pytest.param(10**30, "ms", f"{10**30} is outside every calendar", id="after the last year"),
        pytest.param(float("inf"), "s", "inf is no number of s since 1970", id="infinity"),
        pytest.param("x" * 99, "iso", f"'{'x' * 58}… is no time in ISO 8601", id="a long text"),
    ],
)
def test_what_is_no_time_is_refused_with_the_reason(
    value: Any, time_format: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        read_time(value, time_format)

    assert str(raised.value) == reason


def test_a_time_without_a_zone_is_in_the_one_that_is_named() -> None:
    berlin = zone_of("Europe/Berlin")

    assert read_time("01.05.2026 12:00", "%d.%m.%Y %H:%M", berlin) == TEN
    assert read_time(date(2026, 5, 1), zone=berlin) == TEN - timedelta(hours=12)
    assert read_time("2026-05-01T10:00:00Z", zone=berlin) == TEN


def test_of_an_hour_that_clocks_show_twice_the_first_is_meant() -> None:
    assert read_time("2026-10-25 02:30", zone=zone_of("Europe/Berlin")) == datetime(
        2026, 10, 25, 0, 30, tzinfo=UTC
    )


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2250, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
    st.sampled_from(sorted(PER_SECOND)),
    st.sampled_from([int, str]),
)
def test_a_number_is_the_moment_that_it_was_made_of(
    moment: datetime, unit: str, form: type
) -> None:
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    number = microseconds * PER_SECOND[unit] // 10**6
    kept = max(1, 10**6 // PER_SECOND[unit])

    found = read_time(form(number), unit)

    assert found == moment - timedelta(microseconds=microseconds % kept)


@given(st.text() | st.integers() | st.floats() | st.decimals(allow_nan=False) | st.booleans())
def test_anything_else_is_refused_and_nothing_worse(value: Any) -> None:
    for time_format in ("iso", "s", "%H:%M"):
        try:
            found = read_time(value, time_format)
        except ValueError:
            continue
        assert found is None or found.utcoffset() == timedelta(0)


def test_a_format_or_a_zone_that_there_is_not_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="time_format") as raised:
        read_time("2026-05-01", "ISO")
    assert str(raised.value) == (
        "ingest.mapping.time_format: 'ISO' is none; write iso, s, ms, us, ns, or a pattern such as "
        "'%d/%m/%Y %H:%M:%S'."
    )
    for name in ("Europe/Nowhere", "../zone", ""):
        with pytest.raises(UsageError, match=r"^ingest\.mapping\.time_zone: .*none that this"):
            zone_of(name)
