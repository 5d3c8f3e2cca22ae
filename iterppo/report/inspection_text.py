"""What `iterppo inspect` found, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from iterppo.artifact import Ancestor
from iterppo.config import EventMapping
from iterppo.logs.event_logs import required_columns
from iterppo.report.checkpoints import checkpoint_lines, tensors_lines
from iterppo.report.column_statistics import statistics_text
from iterppo.report.conservation import conservation
from iterppo.report.conversations import (
    conversation_lines,
    log_lines,
    message_lines,
    printable,
)
from iterppo.report.lineage_tree import lineage_lines
from iterppo.report.q_text import q_text

_WIDTH = 100
_LONGEST_JSON = 4_000


def content_text(content: Mapping[str, Any], *, whole: bool) -> str:
    """Text of whatever it was."""
    lines = {
        "artifact": _artifact_lines,
        "half-written artifact": _half_written_lines,
        "Parquet file": _part_lines,
        "safetensors file": _tensor_lines,
        "JSON file": _json_lines,
        "log": _log_lines,
        "checkpoint": _checkpoint_lines,
        "round": _round_lines,
        "run": _run_lines,
    }[content["what"]](content, whole)
    return "\n".join(lines)


def _artifact_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    if whole:  # one conversation was asked for
        return [*_head_lines(content)[: 1 + len(content["problems"])], *_rows_lines(content, whole)]
    path = Path(content["path"])
    made = datetime.fromisoformat(content["created_at"])
    lines = [
        *_head_lines(content),
        f"  made by {content['stage']}, iterppo {content['iterppo_version']}, "
        f"{made:%Y-%m-%d %H:%M} UTC",
        f"  digest {content['digest'][:16]}, seed {content['seed']}",
    ]
    if content["inputs"]:
        lines += ["  made from", *_indented(lineage_lines(_ancestors(content["lineage"])), 4)]
    if content["kind"] == "q":
        lines += q_text(path)
    lines += _model_lines(content)
    lines.append("  config " + json.dumps(content["config"], ensure_ascii=False))
    others = [name for name in content["files"] if not name.startswith("part-")]
    if others:
        lines.append("  files " + ", ".join(others))
    return lines + _rows_lines(content, whole)


def _half_written_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    kind = f"{content['kind']}@{content['version']}, " if "kind" in content else ""
    rows = f"{content['rows']} rows can be read" if "rows" in content else "no rows can be read"
    lines = [f"{content['path']}: {kind}{rows}", *_problem_lines(content)]
    for name, file in content["files"].items():
        lines.append(f"  {name}, {file['size_bytes']} bytes")
    return lines + _model_lines(content) + _rows_lines(content, whole)


def _part_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    contract = (
        f"{content['kind']}@{content['version']}"
        if content["kind"]
        else "Parquet, under no contract of iterppo"
    )
    lines = [f"{content['path']}: {contract}, {content['rows']} rows", *_problem_lines(content)]
    if "artifact" in content:
        lines.append(f"  a file of the artifact {content['artifact']}")
    return lines + _rows_lines(content, whole)


def _tensor_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    return [f"{content['path']}: safetensors", *tensors_lines(dict(content))]


def _json_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    path = Path(content["path"])
    head = f"{path}: JSON"
    if path.name == "metrics.json" and (told := q_text(path.parent)):
        return [f"{head}, the diagnostics of a Q", *told]
    text = json.dumps(content["content"], indent=2, ensure_ascii=False)
    if len(text) > _LONGEST_JSON and not whole:
        text = f"{text[:_LONGEST_JSON]}\n… ({len(text)} characters; all of it with --json)"
    return [head, *(f"  {printable(line)}" for line in text.splitlines())]


def _log_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    path, format_ = content["path"], content["format"]
    lines = [f"{path}: a log, format {format_}, {content['lines']} lines"]
    lines += _problem_lines(content)
    if format_ == "events":
        lines.append("  columns " + ", ".join(map(printable, content["columns_found"])))
        lines += [f"  {_cut(printable(line))}" for line in content["first_lines"]]
    for conversation in content.get("conversations", ()):
        lines += log_lines(conversation, whole=whole)
    lacking = required_columns(EventMapping()) - set(content.get("columns_found", ()))
    mapping = " --mapping MAPPING.toml" if format_ == "events" and lacking else ""
    lines.append(f"  to use it: iterppo ingest {path}{mapping} --round runs/NAME/000")
    return lines


def _checkpoint_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    return [
        f"{content['path']}: a Hugging Face checkpoint",
        *checkpoint_lines(content["checkpoint"]),
    ]


def _round_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    lines = [f"{content['path']}: a round"]
    counts: dict[str, dict[str, int]] = {}
    for one in content["artifacts"].values():
        if one["what"] == "artifact":
            lines += _head_lines(one)
            counts[one["kind"]] = one["counts"]
        else:
            lines += _half_written_lines(one, whole)
    for identity, holds in conservation(counts):
        lines.append(identity if holds else f"{identity}  <- something was lost or doubled")
    return lines


def _run_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    path = content["path"]
    return [
        f"{path}: a run of {len(content['rounds'])} rounds: {', '.join(content['rounds'])}",
        f"  what is fresh, stale or missing in it: iterppo status {path}",
        f"  one of them: iterppo inspect {Path(path) / content['rounds'][0]}",
    ]


def _head_lines(content: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{content['path']}: {content['kind']}@{content['version']}, {content['rows']} rows",
        *_problem_lines(content),
    ]
    for name in ("counts", "metrics"):
        values = content[name]
        width = max(map(len, values), default=0)
        lines += [f"  {name}"] if values else []
        lines += [f"    {key:<{width}}  {_number(value)}" for key, value in values.items()]
    return lines


def _problem_lines(content: Mapping[str, Any]) -> list[str]:
    return [f"  ! {printable(problem)}" for problem in content["problems"]]


def _model_lines(content: Mapping[str, Any]) -> list[str]:
    if "checkpoint_problem" in content:
        return [f"  ! {content['checkpoint_problem']}"]
    if "checkpoint" not in content:
        return []
    return ["  model", *_indented(checkpoint_lines(content["checkpoint"]), 2)]


def _rows_lines(content: Mapping[str, Any], whole: bool) -> list[str]:
    columns = () if whole else content.get("columns", ())
    lines = ["columns"] if columns else []
    for column in columns:
        unit = f" [{column['unit']}]" if column["unit"] else ""
        null = ", may be null" if column["nullable"] else ""
        lines.append(f"  {column['name']}: {column['type']}{unit}{null}")
        if column["meaning"]:
            lines.append(f"    {column['meaning']}")
        if column["statistics"] and column["statistics"]["rows"]:
            lines.append(f"    {statistics_text(column['statistics'])}")
    lines += conversation_lines(content.get("turns", ()), whole=whole)
    kind = content.get("kind")
    for number, row in enumerate(content.get("first_rows", ())):
        lines += _row_lines(kind, row, number, whole)
    return lines


def _row_lines(kind: str | None, row: Mapping[str, Any], number: int, whole: bool) -> list[str]:
    if kind == "prompts":
        lines = [
            f"prompt {printable(row['prompt_id'])} ({row['split']}, {row['n_tokens']} tokens, "
            f"{row['num_cut_messages']} messages cut)"
        ]
        for message in row["prompt"]:
            lines += message_lines(message["role"], message["content"], whole=whole)
        return lines
    if kind == "actions":
        head = f"{printable(row['conversation_id'])}, turn {row['turn']}, sample {row['sample']}"
        action = "(nothing: it abstained)" if row["action"] is None else row["action"]
        return [head, *message_lines("action", action, whole=whole)]
    if kind == "policy":
        head = (
            f"step {row['step']}, prompt {printable(row['prompt_id'])}: Q̂ {row['q']:.3f}, "
            f"KL {row['kl']:.3f}, advantage {row['advantage']:.3f}"
        )
        completion = row["completion"] or "(nothing: it abstained)"
        return [head, *message_lines("suggested", completion, whole=whole)]
    if kind == "rejects":
        head = f"{printable(row['source'])}, line {row['line']}: {printable(row['reason'])}"
        return [head, *message_lines("line", row["raw"], whole=whole)]
    lines = [f"row {number}"]
    for key, value in row.items():
        text = (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        )
        lines.append(f"  {key}: {_cut(printable(text))}")
    return lines


def _ancestors(content: Sequence[Mapping[str, Any]]) -> list[Ancestor]:
    """The tree, back from JSON's form."""
    found = []
    for one in content:
        created_at, path = one["created_at"], one["path"]
        found.append(
            Ancestor(
                name=one["name"],
                kind=one["kind"],
                digest=one["digest"],
                recorded_path=one["recorded_path"],
                path=None if path is None else Path(path),
                found=one["found"],
                stage=one["stage"],
                created_at=None if created_at is None else datetime.fromisoformat(created_at),
                inputs=tuple(_ancestors(one["inputs"])),
                inputs_left_out=one["inputs_left_out"],
            )
        )
    return found


def _indented(lines: Sequence[str], by: int) -> list[str]:
    return [f"{' ' * by}{line}" for line in lines]


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]} …"


def _number(value: Any) -> str:
    if value is None:
        return "not a number"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if value != int(value) else f"{value:.0f}"
