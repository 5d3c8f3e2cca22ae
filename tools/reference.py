"""Pages of the documentation that are written by the code: a stage's options, settings and columns.

pipeline.STAGES, the configuration's classes, the contracts -> Markdown

They are made when the site is built, and never committed: what is not there cannot be out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

import typer

from iterppo.cli import app
from iterppo.contracts import ROWS
from iterppo.contracts.base import columns, contract_name
from iterppo.pipeline import BEHAVIOUR, STAGES, Slot, Stage

EXIT_STATUSES = """
Exit status: 0 done or up to date; 1 a gate said no; 2 wrong usage or configuration; 3 bad input
data; 4 an artifact is missing, damaged or of another version; 5 one of several processes ended in
an error. Errors are one line on standard error.
"""


def commands() -> dict[str, Any]:
    """The commands by name, as typer knows them."""
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = group.commands
    return found


def stage_page(stage: Stage) -> str:
    """The page of a stage: what it reads and writes, its command, its settings, its columns."""
    parts = [
        f"# {stage.name}",
        stage.help,
        "## Reads and writes",
        _table(
            ("", "kind", "place in a round", "option"),
            [("reads", slot.kind + _maybe(slot), *_where(slot, stage)) for slot in stage.reads]
            + [("writes", slot.kind, *_where(slot, stage)) for slot in stage.writes],
        ),
        f"`{_call(stage)}` finds and names them all. Explicit paths win.",
        "## Command",
        _options(commands()[stage.name]),
        f"## Settings: `[{stage.name}]`",
        f"In a configuration file under `[{stage.name}]`, or as `--set {stage.name}.KEY=VALUE`.",
        *_settings(stage),
    ]
    for slot in stage.writes:
        if slot.kind in ROWS:
            parts += [f"## Columns of {slot.kind}", contract_text(slot.kind)]
    return "\n\n".join(parts) + "\n"


def stages_page() -> str:
    """The stages in the order in which a round runs them."""
    rows = [
        (
            f"[{stage.name}]({stage.name}.md)",
            stage.help,
            ", ".join(slot.kind + _maybe(slot) for slot in stage.reads) or "log files",
            ", ".join(slot.kind for slot in stage.writes),
        )
        for stage in STAGES.values()
    ]
    return "\n\n".join(
        [
            "# Stages",
            "Each stage is a command that reads and writes artifacts. These pages are made from "
            "the code when the site is built.",
            _table(("stage", "does", "reads", "writes"), rows),
            " ".join(EXIT_STATUSES.split()),
        ]
    )


def commands_page() -> str:
    """The commands that make no artifact."""
    parts = ["# Other commands", "What looks at artifacts, and what decides. Made from the code."]
    for name, command in sorted(commands().items()):
        if name not in STAGES and not command.hidden:
            parts += [f"## {name}", _clean(command.help or ""), _options(command)]
    return "\n\n".join(parts) + "\n"


def contract_text(kind: str) -> str:
    """One row's meaning, then the columns."""
    row = ROWS[kind]
    rows = [
        (
            f"`{column['name']}`",
            f"`{column['type']}`" + (", may be null" if column["nullable"] else ""),
            column["unit"],
            column["meaning"],
        )
        for column in columns(row)
    ]
    older = [str(version) for version in row.readable_versions if version != row.version]
    read = f" Version {' and '.join(older)} is still read." if older else ""
    return (
        f"Contract `{contract_name(row)}`, published as `schemas/{kind}/v{row.version}.json`; one "
        f"row is {row.one_row_is}.{read}\n\n" + _table(("column", "type", "unit", "meaning"), rows)
    )


# --- parts of a page


def _call(stage: Stage) -> str:
    parameters = commands()[stage.name].params
    positional = [_name(each) for each in parameters if not each.opts[0].startswith("-")]
    return " ".join(["iterppo", stage.name, *positional, "--round runs/mine/000"])


def _maybe(slot: Slot) -> str:
    return " (optional)" if slot.optional else ""


def _where(slot: Slot, stage: Stage) -> tuple[str, str]:
    """The slot's place in a round, and the option that names another."""
    options = {each.name: each.opts[0] for each in commands()[stage.name].params}
    option = options.get(slot.name.replace("-", "_"), "")
    named = f"`{option}`" if option.startswith("--") else ""
    if slot.place == BEHAVIOUR:
        return "the previous round's `policy`; `init` in a first round", named
    return f"`{slot.place}`", named


def _options(command: Any) -> str:
    rows = [
        (
            f"`{_name(parameter)}`",
            _takes(parameter),
            _clean(parameter.help or ""),
            _default(parameter),
        )
        for parameter in command.params
        if not getattr(parameter, "hidden", False)
    ]
    return _table(("option", "takes", "meaning", "default"), rows)


def _name(parameter: Any) -> str:
    if parameter.opts[0].startswith("-"):
        return ", ".join([*parameter.opts, *parameter.secondary_opts])
    return str(parameter.metavar or parameter.name.upper())


def _takes(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    several = get_origin(annotation) is list
    if several:
        (annotation,) = get_args(annotation)
    if annotation is bool:
        return "a flag"
    words = {str: "text", int: "whole number", float: "number"}
    choices = get_args(annotation)
    name = getattr(annotation, "__name__", "")
    taken = ", ".join(f"`{choice}`" for choice in choices) or words.get(annotation, "path")
    if name == "Path":
        taken = "path"
    return f"{taken}; several" if several or parameter.nargs == -1 else taken


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    if parameter.default in (None, False) or callable(parameter.default):
        return ""
    return f"`{parameter.default}`"


def _settings(stage: Stage) -> Iterable[str]:
    schema = stage.config.model_json_schema()
    yield _properties(schema)
    definitions = schema.get("$defs", {})
    for name, paths in _places(schema, definitions).items():
        definition = definitions[name]
        tag = definition["properties"].get("by", {}).get("const")
        told = f"`{{by = {json.dumps(tag)}}}`" if tag else ", ".join(f"`{path}`" for path in paths)
        yield f"### {told}"
        yield _clean(definition.get("description", ""))
        if set(definition["properties"]) != {"by"}:
            yield _properties(definition)


def _places(
    schema: dict[str, Any], definitions: dict[str, Any], prefix: str = ""
) -> dict[str, list[str]]:
    """The settings whose values are tables, by the definition of the table; tables within tables
    behind them."""
    found: dict[str, list[str]] = {}
    for setting, field in schema["properties"].items():
        for name in re.findall(r"#/\$defs/(\w+)", json.dumps(field)):
            if f"{prefix}{setting}" not in found.setdefault(name, []):
                found[name].append(f"{prefix}{setting}")
    for name, (path, *_) in list(found.items()):
        for inner, paths in _places(definitions[name], definitions, f"{path}.").items():
            found.setdefault(inner, []).extend(paths)
    return found


def _properties(schema: dict[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = [
        (
            f"`{name}`",
            _values(field),
            "needed" if name in needed else _toml(field.get("default")),
            _clean(field.get("description", "")),
        )
        for name, field in schema["properties"].items()
        if "const" not in field
    ]
    return _table(("setting", "value", "default", "meaning"), rows)


def _values(field: dict[str, Any]) -> str:
    """What a setting takes, in words, from its JSON schema."""
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "anyOf" in field or "oneOf" in field:
        inner = (_values(each) for each in field.get("anyOf") or field["oneOf"])
        return " or ".join(dict.fromkeys(inner))
    if "$ref" in field:
        return "a table, see below"
    kind = field.get("type", "")
    if kind == "array":
        inner = _values(field["items"])
        return f"list of {'tables, see below' if inner.startswith('a table') else inner}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true` or `false`",
        "object": "table",
    }
    return words.get(kind, "") + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    bounds = [
        f"{sign} {field[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in field and field[key] < 2**32
    ]
    return f", {', '.join(bounds)}" if bounds else ""


def _toml(value: Any) -> str:
    if isinstance(value, dict | list) and len(json.dumps(value)) > 60:
        return "see below" if "columns" in value else f"`{json.dumps(value)}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _clean(text: str) -> str:
    return " ".join(text.split())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [list(header), ["---"] * len(header)]
    cells += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
