"""The page in headless Chromium, as a person meets it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.page.browser import NAMES, Browser, chromium

SHOWN = "[...document.querySelectorAll('.card')].filter((card) => !card.hidden)"


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip(f"no Chromium on the PATH ({', '.join(NAMES)})")
    with Browser(program, tmp_path_factory.mktemp("browser")) as found:
        yield found


def set_value(browser: Browser, name: str, value: str) -> None:
    """Choose or type into a control of the search form."""
    browser.ask(
        f"(() => {{ const one = document.querySelector('form').elements[{name!r}];"
        f" one.value = {value!r}; one.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )


def test_the_page_loads_alone_and_without_a_complaint(browser: Browser, file: Path) -> None:
    browser.messages.clear()
    browser.requests.clear()
    browser.open(file)

    assert browser.messages == []
    assert browser.requests == [file.as_uri()]


def test_a_script_in_a_message_is_shown_and_does_not_run(browser: Browser, file: Path) -> None:
    browser.open(file)

    assert browser.ask("typeof window.stolen") == "undefined"
    assert browser.ask("document.images.length") == 0
    assert "<script>window.stolen = 1</script>" in browser.ask(f"{SHOWN}[0].innerText")


def test_a_script_that_got_in_all_the_same_would_be_refused(
    browser: Browser, file: Path, tmp_path: Path
) -> None:
    """The content security policy is a second wall: the first one is taken down here."""
    broken = tmp_path / "broken.html"
    text = file.read_text(encoding="utf-8")
    broken.write_text(text.replace("<main>", "<main><script>window.stolen = 1</script>"), "utf-8")
    browser.open(broken)

    assert browser.ask("typeof window.stolen") == "undefined"
    assert any("Content Security Policy" in message for message in browser.messages)


def test_ten_conversations_are_shown_and_more_when_asked_for(browser: Browser, file: Path) -> None:
    browser.open(file)
    said = "document.querySelector('output').textContent"

    assert browser.ask(f"{SHOWN}.length") == 10
    assert browser.ask(said) == "10 of 30 shown"
    changes = browser.ask(f"{SHOWN}.map((card) => card.querySelector('.change').textContent)")
    sizes = [abs(float(each.replace("−", "-"))) for each in changes]
    assert sizes == sorted(sizes, reverse=True)

    for shown in (20, 30):
        browser.ask("document.querySelector('.more').click()")
        assert browser.ask(f"{SHOWN}.length") == shown
    assert browser.ask("document.querySelector('.more').hidden") is True


def test_the_search_and_the_filters_leave_what_fits(browser: Browser, file: Path) -> None:
    browser.open(file)

    set_value(browser, "text", "QUESTION 17  better")
    assert browser.ask(f"{SHOWN}.map((card) => card.querySelector('h4').textContent)") == [
        'c17"><i>, turn 2 · outcome not reached'
    ]
    set_value(browser, "text", "")
    set_value(browser, "kind", "lower")
    assert browser.ask(f"[...new Set({SHOWN}.map((card) => card.dataset.kind))]") == ["lower"]
    assert browser.ask("document.querySelector('output').textContent") == "10 of 15 shown"
    set_value(browser, "outcome", "reached")
    assert browser.ask("document.querySelector('output').textContent") == "5 of 5 shown"
    set_value(browser, "text", "no such words")
    assert browser.ask(f"{SHOWN}.length") == 0


def test_the_theme_follows_the_system_until_the_button_is_pressed(
    browser: Browser, file: Path
) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('figure svg text')).fill"
    browser.open(file)
    light, light_text = browser.ask(paper), browser.ask(line)
    browser.open(file, dark=True)
    dark, dark_text = browser.ask(paper), browser.ask(line)
    browser.ask("document.getElementById('theme').click()")
    pressed = browser.ask(paper)
    browser.ask("document.getElementById('theme').click()")

    assert light != dark
    assert light_text != dark_text
    assert (pressed, browser.ask(paper)) == (light, dark)
    browser.ask("localStorage.clear()")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200], ids=["phone", "desk"])
def test_nothing_is_wider_than_the_window(
    browser: Browser, file: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    """Tables and the graph scroll within themselves. The picture is taken too."""
    browser.open(file, width=width, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    picture = browser.screenshot(tmp_path / "page.png", whole=False)

    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    smallest = (
        "Math.min(...[...document.querySelectorAll('figure svg text')]"
        ".map((each) => each.getBoundingClientRect().height))"
    )
    assert browser.ask(smallest) >= 9


def test_a_link_to_a_folded_round_opens_it(browser: Browser, file: Path) -> None:
    browser.open(file)
    is_open = "document.querySelector('#round-001 details').open"
    assert browser.ask(is_open) is False

    browser.ask(
        "new Promise((done) => { addEventListener('hashchange', () => setTimeout(done));"
        " document.querySelector('nav a[href=\"#round-001\"]').click(); })"
    )

    assert browser.ask(is_open) is True
