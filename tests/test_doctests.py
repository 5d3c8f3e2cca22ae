"""The examples in the docstrings of the mathematics, and of the report, are right."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import iterppo.report.page
import iterppo.rl
import iterppo.statistics


def modules_of(package: ModuleType) -> list[str]:
    return [
        f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)
    ]


MODULES = [
    *modules_of(iterppo.rl),
    *modules_of(iterppo.statistics),
    *modules_of(iterppo.report.page),
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_right(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))

    assert found.failed == 0


def test_every_room_that_is_read_has_examples() -> None:
    finder = doctest.DocTestFinder()
    attempted = {
        name.rpartition(".")[0]
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    }

    assert attempted == {"iterppo.report.page", "iterppo.rl", "iterppo.statistics"}
