"""Finds an environment by name: a built-in one, an installed plugin, or `module:factory`."""

import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

from iterppo.environments.plain import in_our_form, summary
from iterppo.environments.protocol import Environment
from iterppo.errors import UsageError

GROUP = "iterppo.environments"
"""Entry points of this group are environments; each names a factory without arguments."""

# An entry point exists only after installation, and these must also run from a bare checkout.
_BUILT_IN = {
    "shop": "iterppo.environments.shop:Shop",
    "tutor": "iterppo.environments.tutor:Tutor",
}


def load_environment(name: str) -> Callable[[], Environment]:
    """The factory that `name` stands for.

    It is called here, a result reset once and dropped, so that a broken environment is found before
    anything slow begins. `reset` tells the two forms apart as well: that of our protocol,
    and the plain one, `reset(seed) -> str` and `step(text) -> (text, outcome, done)`.

    Args:
        name: An entry point of the group `iterppo.environments`, or `module:factory`. Modules are
            also looked for in the current folder, after all others.

    Raises:
        UsageError: If nothing has this name, or what has it does not make an environment.
    """
    reference = name if ":" in name else _registered(name)
    factory = _import(reference, name)
    try:
        environment = factory()
    except Exception as error:
        raise UsageError(
            f"environment {name!r}: calling {reference}() failed ({summary(error)}); "
            "a factory is called without arguments and returns an environment"
        ) from error
    if not isinstance(environment, Environment):
        raise UsageError(
            f"environment {name!r}: {reference}() made a {type(environment).__name__}, which "
            "lacks reset or step; give it reset(seed) and step(suggestion)"
        )
    if factory() is environment:
        raise UsageError(
            f"environment {name!r}: {reference}() returns the same object every time; return a new "
            "one for each conversation, since they are held side by side"
        )
    return in_our_form(factory, environment, name=name)


def source_files(name: str) -> list[Path]:
    """The file that an environment is written in: a log is of what it says. None of those that are
    built in, which are code of iterppo, and where there is none to be found. What the file imports
    is not followed."""
    if name in _BUILT_IN:
        return []
    module_name = (name if ":" in name else _registered(name)).partition(":")[0].strip()
    _look_in_the_current_folder()
    try:
        spec = find_spec(module_name)
    except Exception:  # the package that it is in is imported, and may raise anything
        spec = None  # whoever loads the environment is told
    if spec is None or not spec.has_location or spec.origin is None:
        return []
    return [Path(spec.origin)]


def _registered(name: str) -> str:
    """The `module:factory` that a plain name is registered for."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    plugins: dict[str, set[str]] = {}
    for plugin in entry_points(group=GROUP):
        plugins.setdefault(plugin.name, set()).add(f"{plugin.module}:{plugin.attr}")
    references = sorted(plugins.get(name, ()))
    if len(references) > 1:
        raise UsageError(
            f"environment {name!r} is registered {len(references)} times "
            f"({', '.join(references)}); give the one you mean as module:factory"
        )
    if not references:
        known = ", ".join(sorted({*_BUILT_IN, *plugins}))
        raise UsageError(
            f"no environment is called {name!r}; known: {known}; or give your own as module:factory"
        )
    return references[0]


def _import(reference: str, name: str) -> Any:
    module_name, _, attribute = (part.strip() for part in reference.partition(":"))
    if not module_name or not attribute or module_name.startswith("."):
        raise UsageError(
            f"environment {name!r} is not of the form module:factory; "
            "write for example my_package.my_shop:MyShop"
        )
    _look_in_the_current_folder()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(
            f"environment {name!r}: cannot import {module_name} ({summary(error)}); "
            "check its name, and that it is installed or lies in the current folder"
        ) from error
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        raise UsageError(
            f"environment {name!r}: module {module_name} has no {attribute}; "
            f"it has: {', '.join(sorted(public)) or 'nothing'}"
        ) from None


def _look_in_the_current_folder() -> None:
    """A console script, unlike `python -m`, does not search the folder that it is started in. Last
    in the path, nothing there can hide an installed module."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
