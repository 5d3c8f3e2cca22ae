"""Figures take the page's colours, keep their texts, and are equal where the data are."""

import re
from xml.etree import ElementTree

from iterppo.report.page.drawing import FIRST, drawing, svg


def drawn(name: str, *, label: str = "A line") -> str:
    with drawing() as (figure, axes):
        axes.plot([0.0, 1.0], [0.005, 0.0125], "o-", color=FIRST)
        axes.set_xlabel("cost in $ and <b>$</b>")
        return svg(figure, name=name, label=label)


def test_colours_are_those_of_the_page() -> None:
    text = drawn("a")

    assert "var(--first)" in text
    assert not re.findall(r"#[0-9a-f]{6}", text)
    assert "font-family" not in text


def test_texts_stay_texts_with_all_their_digits() -> None:
    element = ElementTree.fromstring(drawn("a", label='of "Q" & <V>'))
    texts = [each.text for each in element.iter("text")]

    assert "cost in $ and <b>$</b>" in texts
    assert "0.006" in texts
    assert element.get("aria-label") == 'of "Q" & <V>'


def test_no_two_figures_share_an_id_and_every_reference_is_answered() -> None:
    one, other = drawn("a"), drawn("b")
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (one, other)]
    used = [set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) for text in (one, other)]

    assert ids == used
    assert ids[0]
    assert not ids[0] & ids[1]


def test_equal_data_give_equal_bytes() -> None:
    assert drawn("a") == drawn("a")
