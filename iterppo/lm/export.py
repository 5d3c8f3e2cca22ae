"""A policy as others serve it: a plain Hugging Face folder with a model card, and the proof that it
works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iterppo.artifact import Manifest
from iterppo.errors import ArtifactError
from iterppo.lm.policy import SETTINGS, PolicySettings, load_renderer, model_folder
from iterppo.lm.rendering import Message
from iterppo.personas import probability_of

CHECK_TIMEOUT_S = 600


def write_export(
    policy: Path, folder: Path, *, manifest: Manifest, settings: PolicySettings
) -> None:
    """Copy the model folder, and write what it is served with: settings and card."""
    shutil.copytree(model_folder(policy), folder, dirs_exist_ok=True)
    (folder / SETTINGS).write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(manifest, settings), encoding="utf-8")


def check_export(folder: Path, messages: Sequence[Message]) -> str:
    """Complete one prompt in a fresh process with plain transformers; returns the completion.

    Raises:
        ArtifactError: If the folder does not load, or its chat template renders other tokens than
        training saw.
    """
    script = Path(__file__).with_name("serve_check.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(folder)],
        input=json.dumps(list(messages)),
        capture_output=True,
        text=True,
        timeout=CHECK_TIMEOUT_S,
        env=environment,
        check=False,
    )
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ArtifactError(f"export: plain transformers cannot serve the folder: {reason[0]}.")
    answer: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    if answer["prompt_ids"] != load_renderer(folder).prompt_ids(messages):
        raise ArtifactError(
            "export: the folder's chat template renders the prompt to other tokens than the "
            "policy was trained on. "
            "Report this with the name of the base model."
        )
    return str(answer["completion"])


def _card(manifest: Manifest, settings: PolicySettings) -> str:
    lineage = "\n".join(
        f"| {name} | {record.kind} | `{record.digest[:16]}` |"
        for name, record in manifest.inputs.items()
    )
    metrics = "\n".join(f"| {name} | {value} |" for name, value in manifest.metrics.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [iterppo]
---

# {settings.version}

A policy for suggested responses, made by `iterppo {manifest.stage}`
(iterppo {manifest.iterppo_version}, {manifest.created_at:%Y-%m-%d}).

## How to serve it

Send the conversation as chat messages: the system message below, each customer message as `user`,
each earlier suggestion as `assistant`. Where the business sent something else than was suggested,
the next `user` message begins with `[business sent] …` on a line of its own, then `[customer] …`.
An empty completion, or one that reaches the length limit, is an abstention: suggest nothing. Keep
the states within {settings.max_prompt_tokens} tokens by leaving out the oldest messages, never a
part of one.

Tokenise what people wrote as plain text: `apply_chat_template` takes a customer who types a control
token at their word.

    system: {json.dumps(settings.system_prompt, ensure_ascii=False)}
    temperature: {settings.temperature}, top_p: 1, top_k: off
    max_new_tokens: {settings.max_new_tokens}
{_exploration(settings)}
## Lineage

| input | kind | content |
|---|---|---|
{lineage}

| from | value |
|---|---|
| policy artifact | `{manifest.digest[:16]}` |
{metrics}
"""


def _exploration(settings: PolicySettings) -> str:
    """How a server draws personas; empty where it is given none."""
    if not settings.personas:
        return ""
    rows = "\n".join(
        f"| {_cell(p.name)} | {p.probability:g} | {_cell(p.prompt)} "
        f"| {settings.temperature * p.temperature_scale:g} |"
        for p in settings.personas
    )
    rest = probability_of(settings.personas, None)
    return f"""
## Exploration

Draw once for each conversation, from the table below; with probability {rest:g} the conversation is
held without a persona. Under a persona, write its prompt on a line of its own below the system
message above, before anything that is known of the conversation, and sample at its temperature. Log
the persona's name with every suggestion (`persona`), and the log-probability under it
(`suggestion_logprob`). The same table stands in `{SETTINGS}`.

| persona | probability | prompt | temperature |
|---|---|---|---|
{rows}
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
