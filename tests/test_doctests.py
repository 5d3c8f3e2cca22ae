"""The examples in the docstrings of the mathematics are right."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import iterppo.rl
import iterppo.statistics


def modules_of(package: ModuleType) -> list[str]:
    return [
        f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)
    ]


MODULES = [*modules_of(iterppo.rl), *modules_of(iterppo.statistics)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_right(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))

    assert found.failed == 0


def test_every_room_of_mathematics_has_examples() -> None:
    finder = doctest.DocTestFinder()
    attempted = {
        name.rpartition(".")[0]
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    }

    assert attempted == {"iterppo.rl", "iterppo.statistics"}
