"""A policy on disk: a model, a tokenizer, and the settings it is deployed with."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from iterppo.errors import ArtifactError, UsageError
from iterppo.lm.rendering import Renderer
from iterppo.personas import Persona
from iterppo.progress import loudness

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
SETTINGS = "iterppo_policy.json"
MODEL = "model"


class PolicySettings(BaseModel):
    """What a deployment must know besides the model."""

    model_config = ConfigDict(frozen=True)

    version: str
    """Name of the policy: a digest of its weights and settings."""
    system_prompt: str
    max_prompt_tokens: int
    max_new_tokens: int
    temperature: float
    personas: list[Persona] = []
    """What a server draws from, at most one for each conversation; of an export."""


@dataclass
class Policy:
    """A loaded policy."""

    model: PreTrainedModel
    renderer: Renderer
    settings: PolicySettings


def model_folder(artifact: Path) -> Path:
    """Where the Hugging Face folder of a `policy` or `export` artifact is."""
    return artifact / MODEL if (artifact / MODEL).is_dir() else artifact


def load_settings(artifact: Path) -> PolicySettings:
    """The settings of a `policy` or `export` artifact."""
    file = model_folder(artifact) / SETTINGS
    try:
        return PolicySettings.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{file}: no policy settings ({type(error).__name__}). Is this a policy?"
        ) from None


def load_renderer(artifact: Path) -> Renderer:
    """The tokenizer of a policy, without its model."""
    return Renderer(load_tokenizer(str(model_folder(artifact))))


def load_policy(artifact: Path) -> Policy:
    """Load a `policy` or `export` artifact."""
    folder = model_folder(artifact)
    return Policy(load_model(str(folder)), load_renderer(artifact), load_settings(artifact))


def use_accelerator(policy: Policy) -> None:
    """Put the model on the GPU, if there is one, and in evaluation mode."""
    if torch.cuda.is_available():
        model: Any = policy.model  # transformers wraps `to`, and mypy cannot see through it
        model.to("cuda")
    policy.model.eval()


def load_tokenizer(name: str) -> Any:
    """A tokenizer from a folder or hub id; code that comes with it is never run."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: no tokenizer to load ({_first_line(error)}). Check the folder or hub id."
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str) -> PreTrainedModel:
    """A causal language model from a folder or hub id: safetensors only, no remote code."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: no causal language model in safetensors to load ({_first_line(error)}). "
            "Check the folder or hub id."
        ) from None
    assert isinstance(model, PreTrainedModel)
    return model


def context_tokens(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model was made for; None where its config does not say."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def save_policy(
    folder: Path, *, model: PreTrainedModel, renderer: Renderer, settings: dict[str, Any]
) -> PolicySettings:
    """Write model, tokenizer, generation and policy settings; the version is derived from what was
    written."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=settings["temperature"],
        top_p=1.0,
        top_k=0,  # off; where it is not said, transformers take 50
        max_new_tokens=settings["max_new_tokens"],
        eos_token_id=renderer.eos_id,
        pad_token_id=renderer.tokenizer.pad_token_id,
    )
    model.save_pretrained(folder, safe_serialization=True)
    renderer.tokenizer.save_pretrained(folder)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    complete = PolicySettings(version=f"policy-{digest.hexdigest()[:12]}", **settings)
    (folder / SETTINGS).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return complete


def with_weights(policy: Policy, weights: Mapping[str, torch.Tensor]) -> Policy:
    """The policy with other weights, by name; what it has no place for is left out."""
    own = policy.model.state_dict()
    policy.model.load_state_dict({n: w for n, w in weights.items() if n in own}, strict=False)
    return policy


def tensors_as_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    """Tensors in the safetensors format."""
    from safetensors.torch import save

    content: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return content


def prepare_libraries() -> None:
    """What every stage with a model begins with: quiet libraries, and memory that is kept.

    Progress is ours to show: the libraries' bars are silenced, and so is their advice, unless it is
    to be verbose; their errors are not.
    glibc gives large blocks back to the kernel as soon as they are free, and a training step asks
    for the same ones again, page by page: a twentieth of the time on a CPU.
    """
    import transformers

    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)

    transformers.utils.logging.disable_progress_bar()
    level = logging.INFO if loudness() == "verbose" else logging.ERROR
    transformers.utils.logging.set_verbosity(level)
    for name in (
        "trl",
        "accelerate",
        "datasets",
        "transformers",
        "huggingface_hub",  # a line for each of its dozen tries where there is no network
        "DeepSpeed",
    ):
        logging.getLogger(name).setLevel(level)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
