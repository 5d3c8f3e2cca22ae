"""What a model is, from its configuration and the headers of its safetensors files: nothing of it
is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iterppo.errors import DataError

CONFIG = "config.json"
_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 100_000_000  # as the safetensors library has it
_SIZES = {
    "hidden_size": "wide",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "vocab_size": "tokens known",
    "max_position_embeddings": "tokens of context",
}


def is_checkpoint(folder: Path) -> bool:
    """Whether a Hugging Face model lies in the folder."""
    return (folder / CONFIG).is_file() and next(folder.glob("*.safetensors"), None) is not None


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and place of every tensor by name.

    Eight bytes with the header's length (little-endian), the header as JSON, then the tensors.

    Raises:
        DataError: If the file is cut off, or none.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(_LONGEST_HEADER_BYTES, file.stat().st_size - _LENGTH_BYTES):
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(stream.read(length))
        tensors = {name: one for name, one in header.items() if name != "__metadata__"}
        needed = max((one["data_offsets"][1] for one in tensors.values()), default=0)
        missing = _LENGTH_BYTES + length + needed - file.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: no safetensors file, or cut off ({error}).") from None
    if missing > 0:
        raise DataError(f"{file}: cut off, {missing} bytes are missing. Copy it again.")
    return header


def tensors_content(file: Path) -> dict[str, Any]:
    """Parameters, dtypes and tensors of a safetensors file."""
    header = read_header(file)
    metadata = header.pop("__metadata__", {})
    dtypes: dict[str, int] = {}
    for tensor in header.values():
        number = 1
        for size in tensor["shape"]:
            number *= size
        dtypes[tensor["dtype"]] = dtypes.get(tensor["dtype"], 0) + number
    return {
        "parameters": sum(dtypes.values()),
        "dtypes": dtypes,
        "metadata": metadata,
        "tensors": {
            name: {"dtype": one["dtype"], "shape": one["shape"]} for name, one in header.items()
        },
    }


def checkpoint_content(folder: Path) -> dict[str, Any]:
    """Architecture, sizes, parameters and dtype of a Hugging Face folder.

    Raises:
        DataError: If its configuration or one of its files cannot be read.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        architectures = list(config.get("architectures") or [])
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / CONFIG}: cannot be read ({error}).") from None
    files = {file.name: tensors_content(file) for file in sorted(folder.glob("*.safetensors"))}
    models = [one for name, one in files.items() if name.startswith("model")] or [*files.values()]
    dtypes: dict[str, int] = {}
    for one in models:
        for dtype, number in one["dtypes"].items():
            dtypes[dtype] = dtypes.get(dtype, 0) + number
    return {
        "architectures": architectures,
        "model_type": config.get("model_type"),
        "sizes": {key: config[key] for key in _SIZES if config.get(key) is not None},
        "parameters": sum(dtypes.values()),
        "dtypes": dtypes,
        "has_chat_template": (folder / "chat_template.jinja").is_file(),
        "files": {name: one["parameters"] for name, one in files.items()},
    }


def tensors_lines(told: dict[str, Any]) -> list[str]:
    """A safetensors file, for people."""
    lines = [f"  {told['parameters']} parameters, {_dtypes(told)}, {len(told['tensors'])} tensors"]
    lines += [f"  {name}: {text}" for name, text in _short_texts(told["metadata"])]
    for name, one in told["tensors"].items():
        shape = " × ".join(map(str, one["shape"])) or "one number"
        lines.append(f"    {name}: {one['dtype']}, {shape}")
    return lines


def checkpoint_lines(told: dict[str, Any]) -> list[str]:
    """A checkpoint, for people."""
    name = ", ".join(told["architectures"]) or told["model_type"] or "architecture unknown"
    sizes = ", ".join(f"{value} {_SIZES[key]}" for key, value in told["sizes"].items())
    lines = [f"  {name}: {told['parameters']} parameters, {_dtypes(told)}"]
    if sizes:
        lines.append(f"  {sizes}")
    if not told["has_chat_template"]:
        lines.append("  no chat template")
    others = {n: number for n, number in told["files"].items() if not n.startswith("model")}
    lines += [f"  {n}: {number} parameters" for n, number in others.items()]
    return lines


def _dtypes(told: dict[str, Any]) -> str:
    if len(told["dtypes"]) == 1:
        return str(next(iter(told["dtypes"])))
    return ", ".join(f"{number} of {dtype}" for dtype, number in told["dtypes"].items()) or "empty"


def _short_texts(metadata: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, text if len(text) <= 80 else f"{text[:80]} …")
        for name, text in ((name, str(value)) for name, value in metadata.items())
    ]
