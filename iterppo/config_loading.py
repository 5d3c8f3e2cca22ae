"""A stage's configuration from TOML, `--set` and options, before anything heavy is imported.

seed = 7                 # for every stage that does not name its own
[fit-q]
learning_rate = 3e-4
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from iterppo.config import StageConfig
from iterppo.errors import UsageError

_FILE_SUFFIXES = {".toml"}


def load_config(
    stage: str,
    config_class: type[StageConfig],
    *,
    file: Path | None = None,
    settings: Sequence[str | tuple[str, str, Any]] = (),
    sections: Mapping[str, type[StageConfig]],
) -> StageConfig:
    """The resolved configuration of a stage: defaults, then the file, then `--set
    section.key=value`.

    Every section of the file is checked, not only the stage's own: a typo is found by the first
    stage of a round.

    Raises:
        UsageError: Unknown section or key, or a value out of range; the message names file and key.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        merged = _read_toml(file)
    _check_sections(merged, sections, source=str(file))
    for setting in settings:
        _apply_setting(merged, setting, sections)
    resolved: dict[str, StageConfig] = {}
    for name, cls in sections.items():
        values = dict(merged.get(name, {}))
        values.setdefault("seed", merged.get("seed", 0))
        resolved[name] = _validate(cls, values, section=name, source=str(file) if file else "--set")
    found = resolved[stage]
    assert isinstance(found, config_class)
    return found


def _read_toml(file: Path) -> dict[str, Any]:
    if file.suffix not in _FILE_SUFFIXES:
        raise UsageError(f"{file}: a configuration is a .toml file.")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{file}: no such configuration file. Check --config.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not TOML: {error}. Mend it there.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error}). Check --config.") from None


def _check_sections(
    content: Mapping[str, Any], sections: Mapping[str, type[StageConfig]], *, source: str
) -> None:
    for name, value in content.items():
        if name == "seed":
            if not isinstance(value, int) or isinstance(value, bool):
                raise UsageError(f"{source}: seed: must be an integer, is {value!r}.")
        elif name not in sections:
            raise UsageError(
                f"{source}: unknown section {name!r}.{_did_you_mean(name, [*sections, 'seed'])}"
            )
        elif not isinstance(value, dict):
            raise UsageError(f"{source}: {name!r} is a section, write [{name}].")


def _apply_setting(
    merged: dict[str, Any],
    setting: str | tuple[str, str, Any],
    sections: Mapping[str, type[StageConfig]],
) -> None:
    if isinstance(setting, tuple):  # an option of the command line, whose value has its type
        section, key, value = setting
        option = f"--{key.replace('_', '-')}"
        _validate_alone(sections[section], key, value, section=section, source=option)
        merged[section] = {**merged.get(section, {}), key: value}
        return
    path, equals, text = setting.partition("=")
    section, dot, key = path.strip().partition(".")
    if not equals or (not dot and section != "seed"):
        raise UsageError(
            f"--set {setting}: write section.key=value, as in --set ppo.clip=0.1, or seed=1."
        )
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    if not dot:
        _check_sections({"seed": value}, sections, source="--set")
        merged["seed"] = value
        return
    if section not in sections:
        raise UsageError(
            f"--set {setting}: unknown section {section!r}.{_did_you_mean(section, list(sections))}"
        )
    _validate_alone(sections[section], key, value, section=section, source="--set")
    merged[section] = {**merged.get(section, {}), key: value}


def _validate_alone(
    cls: type[StageConfig], key: str, value: Any, *, section: str, source: str
) -> None:
    """Refuse one setting with its own name; whether it fits the others is seen at the end."""
    try:
        cls.model_validate({key: value})
    except ValidationError as error:
        if any(part["loc"] for part in error.errors()):
            _validate(cls, {key: value}, section=section, source=source)


def _validate(
    cls: type[StageConfig], values: Mapping[str, Any], *, section: str, source: str
) -> StageConfig:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic also names the function that refused.
        parts = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
        key = ".".join(parts)
        if not key:  # several settings contradict each other
            said = first["msg"].removeprefix("Value error, ")
            raise UsageError(f"{source}: {section}: {said}.") from None
        if first["type"] == "extra_forbidden":
            known = [field.alias or name for name, field in cls.model_fields.items()]
            raise UsageError(
                f"{source}: unknown key {section}.{key}.{_did_you_mean(key, known)}"
            ) from None
        said = f"{first['msg']}, is {first['input']!r}"
        if first["type"] == "value_error":  # in our own words, the value among them
            said = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{source}: {section}.{key}: {said}.") from None


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}."
