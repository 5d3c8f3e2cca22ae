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

from pydantic import BaseModel, ValidationError

from iterppo.config import StageConfig
from iterppo.errors import UsageError

_FILE_SUFFIXES = {".toml"}

_Origins = dict[tuple[str, str], str]
"""(section, key) -> where it was set: the file, or the option; the section of the seed of all is
empty."""


def load_config(
    stage: str,
    config_class: type[StageConfig],
    *,
    file: Path | None = None,
    settings: Sequence[str | tuple[str, str, Any]] = (),
    sections: Mapping[str, type[StageConfig]],
) -> StageConfig:
    """The resolved configuration of a stage: defaults, then the file, then `--set
    section.key=value`, where a key within a table is `section.table.key`.

    Every section of the file is checked, not only the stage's own: a typo is found by the first
    stage of a round.

    Raises:
        UsageError: Unknown section or key, or a value out of range; the message names file and key.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        merged = _read_toml(file)
    _check_sections(merged, sections, source=str(file))
    origins: _Origins = {
        (name, key): str(file)
        for name, values in merged.items()
        for key in (values if name in sections else ())
    }
    origins["", "seed"] = str(file)
    for setting in settings:
        _apply_setting(merged, setting, sections, origins)
    resolved: dict[str, StageConfig] = {}
    for name, cls in sections.items():
        values = dict(merged.get(name, {}))
        if "seed" not in values:
            values["seed"] = merged.get("seed", 0)
            origins[name, "seed"] = origins["", "seed"]
        resolved[name] = _validate(cls, values, section=name, origins=origins)
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
    origins: _Origins,
) -> None:
    if isinstance(setting, tuple):  # an option of the command line, whose value has its type
        section, key, value = setting
        option = f"--{key.replace('_', '-')}"
        _validate_alone(sections[section], key, value, section=section, source=option)
        merged[section] = {**merged.get(section, {}), key: value}
        origins[section, key] = option
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
        origins["", "seed"] = "--set"
        return
    if section not in sections:
        raise UsageError(
            f"--set {setting}: unknown section {section!r}.{_did_you_mean(section, list(sections))}"
        )
    key, *inner = key.split(".")
    for name in reversed(inner):
        value = {name: value}
    _validate_alone(sections[section], key, value, section=section, source="--set")
    before = merged.get(section, {})
    merged[section] = {**before, key: _laid_over(before.get(key), value) if inner else value}
    if inner:  # it was found right by itself, so what is wrong of the table was so before
        origins.setdefault((section, key), "--set")
    else:
        origins[section, key] = "--set"


def _laid_over(table: Any, changes: Any) -> Any:
    """A table with what is changed in it, and in tables within it."""
    if not isinstance(table, dict) or not isinstance(changes, dict):
        return changes
    return {**table, **{key: _laid_over(table.get(key), value) for key, value in changes.items()}}


def _validate_alone(
    cls: type[StageConfig], key: str, value: Any, *, section: str, source: str
) -> None:
    """Refuse one setting with its own name; whether it fits the others is seen at the end."""
    try:
        cls.model_validate({key: value})
    except ValidationError as error:
        if any(part["loc"] for part in error.errors()):
            _validate(cls, {key: value}, section=section, origins={(section, key): source})


def _validate(
    cls: type[StageConfig], values: Mapping[str, Any], *, section: str, origins: _Origins
) -> StageConfig:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic also names the function that refused.
        parts = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
        key = ".".join(parts)
        if not key:  # several settings contradict each other; where, is known if all are of one
            said = first["msg"].removeprefix("Value error, ")
            sources = {origins[section, name] for name in values if name != "seed"}
            where = f"{sources.pop()}: " if len(sources) == 1 else ""
            raise UsageError(f"{where}{section}: {said}.") from None
        source = origins[section, parts[0]]
        if first["type"] == "extra_forbidden":
            known = _keys_of(cls, parts)
            raise UsageError(
                f"{source}: unknown key {section}.{key}.{_did_you_mean(parts[-1], known)}"
            ) from None
        said = f"{first['msg']}, is {first['input']!r}"
        if first["type"] == "value_error":  # in our own words, the value among them
            said = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{source}: {section}.{key}: {said}.") from None


def _keys_of(cls: type[BaseModel], parts: Sequence[str]) -> list[str]:
    """The keys that there are in place of the last part; none where the table is one of several
    kinds."""
    for part in parts[:-1]:
        inner = cls.model_fields[part].annotation if part in cls.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        cls = inner
    return [field.alias or name for name, field in cls.model_fields.items()]


def _did_you_mean(word: str, known: list[str]) -> str:
    if not known:
        return ""
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}."
