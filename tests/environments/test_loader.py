"""Names of environments: what they find, and what is said when they find nothing."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from iterppo.environments import loader
from iterppo.environments.loader import load_environment
from iterppo.environments.protocol import Environment
from iterppo.environments.shop import Shop
from iterppo.errors import UsageError

SHOP = "iterppo.environments.shop:Shop"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, from which modules may be imported during one test."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """What is installed, as far as the loader can see."""
    installed: list[EntryPoint] = []
    monkeypatch.setattr(
        loader, "entry_points", lambda group: [one for one in installed if one.group == group]
    )
    return installed


@pytest.mark.parametrize("name", ["shop", SHOP])
def test_the_shop_is_found_without_being_installed(name: str, plugins: list[EntryPoint]) -> None:
    assert load_environment(name) is Shop


def test_the_built_in_shop_cannot_be_replaced_by_a_plugin(plugins: list[EntryPoint]) -> None:
    plugins.append(EntryPoint("shop", "somebody:Else", "iterppo.environments"))

    assert load_environment("shop") is Shop


def test_an_entry_point_is_found_by_its_name(plugins: list[EntryPoint]) -> None:
    plugins.append(EntryPoint("villa", f"{SHOP} [extra]", "iterppo.environments"))

    assert load_environment("villa") is Shop


def test_a_module_of_the_current_folder_is_found(folder: Path) -> None:
    (folder / "twenty_lines.py").write_text(
        "class Echo:\n"
        "    def reset(self, seed): return 'Hello.'\n"
        "    def step(self, suggestion): ...\n"
        "class Factories:\n"
        "    echo = Echo\n"
    )

    assert isinstance(load_environment("twenty_lines:Factories.echo")(), Environment)


def test_an_unknown_name_lists_the_known_ones(plugins: list[EntryPoint]) -> None:
    plugins.append(EntryPoint("villa", SHOP, "iterppo.environments"))

    assert _message("shp") == (
        "no environment is called 'shp'; known: shop, tutor, villa; "
        "or give your own as module:factory"
    )


def test_a_name_that_is_registered_twice_is_not_guessed(plugins: list[EntryPoint]) -> None:
    plugins += [EntryPoint("villa", f"{m}:Villa", "iterppo.environments") for m in ("b", "a")]

    assert _message("villa") == (
        "environment 'villa' is registered 2 times (a:Villa, b:Villa); "
        "give the one you mean as module:factory"
    )


@pytest.mark.parametrize("name", [":Shop", "module:", ":", ".shop:Shop"])
def test_a_malformed_reference_shows_the_right_form(name: str) -> None:
    assert _message(name) == (
        f"environment {name!r} is not of the form module:factory; "
        "write for example my_package.my_shop:MyShop"
    )


def test_a_module_that_does_not_exist_is_named(folder: Path) -> None:
    assert _message("no_such_module:Shop") == (
        "environment 'no_such_module:Shop': cannot import no_such_module "
        "(ModuleNotFoundError: No module named 'no_such_module'); "
        "check its name, and that it is installed or lies in the current folder"
    )


def test_a_module_that_fails_while_it_is_imported_is_named(folder: Path) -> None:
    (folder / "explosive.py").write_text("raise RuntimeError('boom,\\nboom')\n")

    assert _message("explosive:Shop") == (
        "environment 'explosive:Shop': cannot import explosive (RuntimeError: boom, boom); "
        "check its name, and that it is installed or lies in the current folder"
    )


def test_a_missing_attribute_lists_what_the_module_has(folder: Path) -> None:
    (folder / "almost_empty.py").write_text("Shap = dict\nother = 1\n")

    assert _message("almost_empty:Shop") == (
        "environment 'almost_empty:Shop': module almost_empty has no Shop; it has: Shap, other"
    )


@pytest.mark.parametrize(
    ("factory", "found"),
    [
        ("42", "TypeError: 'int' object is not callable"),
        (
            "lambda size: size",
            "TypeError: <lambda>() missing 1 required positional argument: 'size'",
        ),
        ("lambda: 1 / 0", "ZeroDivisionError: division by zero"),
    ],
    ids=["not callable", "wants an argument", "fails"],
)
def test_a_factory_that_cannot_be_called_is_explained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, factory: str, found: str
) -> None:
    monkeypatch.delitem(sys.modules, "bad_factory", raising=False)
    (folder / "bad_factory.py").write_text(f"make = {factory}\n")

    assert _message("bad_factory:make") == (
        f"environment 'bad_factory:make': calling bad_factory:make() failed ({found}); "
        "a factory is called without arguments and returns an environment"
    )


def test_a_factory_of_something_else_is_explained() -> None:
    assert _message("collections:Counter") == (
        "environment 'collections:Counter': collections:Counter() made a Counter, which "
        "lacks reset or step; give it reset(seed) and step(suggestion)"
    )


def test_one_object_for_all_conversations_is_refused(folder: Path) -> None:
    (folder / "one_for_all.py").write_text(
        "class Echo:\n"
        "    def reset(self, seed): return 'Hello.'\n"
        "    def step(self, suggestion): ...\n"
        "one = Echo()\n"
        "def make(): return one\n"
    )

    assert _message("one_for_all:make") == (
        "environment 'one_for_all:make': one_for_all:make() returns the same object every time; "
        "return a new one for each conversation, since they are held side by side"
    )


def _message(name: str) -> str:
    with pytest.raises(UsageError, match=r".") as raised:
        load_environment(name)
    message = str(raised.value)
    assert "\n" not in message
    return message
