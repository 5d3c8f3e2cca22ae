"""Q̂: a sequence-classification model on (s, a), read where the customer's answer would begin.

    h = backbone(s, a) at the end of the pair       Q_m = w_m·h, m = 1 … M    Q̂ = value(mean_m Q_m)
    h' = backbone(s) at the end of the state        V̂ = value(u·h')

The M members share the backbone; each has a head of its own, which starts elsewhere and sees its
own bootstrap resample of the conversations. Where heads are linear, the mean of the members is one
linear head too: the folder that is saved is a plain sequence-classification model which gives Q̂ by
itself, and the members lie beside it. Of heads that read what people wrote as well (`q_heads`) that
model's own head is the nearest linear one. V̂, which cannot see the action, is what Q̂ is compared
with.

Shapes: B segments or pairs, T tokens, D hidden, N action ends in a batch, M members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from peft import LoraConfig, get_peft_model
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from iterppo.config import FitQConfig
from iterppo.errors import ArtifactError
from iterppo.lm.branches import branch_members
from iterppo.lm.policy import load_tokenizer
from iterppo.lm.q_heads import Features, Heads, Place
from iterppo.lm.read_positions import last_layer_at
from iterppo.lm.rendering import Message, Renderer, Segment
from iterppo.lm.training import right_pad, token_batches
from iterppo.progress import progress

SETTINGS = "iterppo_q.json"
HEADS = "iterppo_q_heads.safetensors"


class QSettings(BaseModel):
    """How the model's output becomes a value, and what it was fitted on."""

    model_config = ConfigDict(frozen=True)

    loss: Literal["bce", "squared"]
    max_tokens: int
    members: int = 1


class Outputs(NamedTuple):
    """What the heads say at the ends of a batch; logits under bce."""

    q_NM: torch.Tensor
    v_N: torch.Tensor


class Estimate(NamedTuple):
    """What is thought of one (s, a), in units of the return."""

    q: float
    spread: float | None
    """Standard deviation over the members; None where there is one."""
    v: float
    """V̂(s)."""
    members: list[float]
    """What each member thinks."""


class QFunction:
    """Q̂(s, a) as a callable on text turns; it tokenises by itself, whatever the policy's
    tokenizer."""

    kappa = 0.0
    """κ of the lower confidence bound Q̂ − κ·spread that a call gives."""
    autocast: torch.dtype | None = None
    """Precision of the backbone's arithmetic; None: that of its weights."""
    divided: Callable[[Sequence[Segment]], Outputs] | None = None
    """Where processes share the weights: what makes a pass with all of them."""

    def __init__(
        self, model: PreTrainedModel, renderer: Renderer, settings: QSettings, heads: Heads
    ) -> None:
        self.model = model
        self.renderer = renderer
        self.settings = settings
        self.heads = heads
        self._pad_id: int = renderer.tokenizer.pad_token_id
        self._adapted: Any = None

    @classmethod
    def from_policy(cls, folder: Path, settings: QSettings, *, seed: int = 0) -> QFunction:
        """An untrained Q on the backbone of a policy. Every pair has the same value: the members'
        heads start at random, yet sum to zero."""
        tokenizer = load_tokenizer(str(folder))
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        )
        torch.nn.init.zeros_(model.score.weight)
        heads = Heads(model.score.weight.shape[1], settings.members)
        torch.nn.init.zeros_(heads.state.weight)
        start_MD = torch.empty_like(heads.members.weight)
        start_MD.normal_(std=0.02, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            heads.members.weight.copy_(start_MD - start_MD.mean(dim=0))
        return cls(model, Renderer(tokenizer), settings, heads)

    @classmethod
    def load(cls, folder: Path) -> QFunction:
        """Load what `save` wrote."""
        try:
            settings = QSettings.model_validate_json(
                (folder / SETTINGS).read_text(encoding="utf-8")
            )
            # Before q@2 there were no heads beside the model.
            weights = load_file(folder / HEADS) if (folder / HEADS).exists() else None
        except (OSError, ValueError, SafetensorError) as error:
            raise ArtifactError(
                f"{folder}: {SETTINGS} or {HEADS} cannot be read ({type(error).__name__}). "
                "Fit Q again."
            ) from None
        if weights is None and settings.members > 1:
            raise ArtifactError(f"{folder / HEADS}: not found. Fit Q again.")
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        if weights is None:
            weights = {
                "members.weight": model.score.weight.detach(),
                "state.weight": torch.zeros_like(model.score.weight),
            }
        try:
            heads = Heads.like(weights)
        except (KeyError, RuntimeError, ValueError):
            raise ArtifactError(
                f"{folder / HEADS}: does not hold the heads of a Q. Fit Q again."
            ) from None
        return cls(model, Renderer(load_tokenizer(str(folder))), settings, heads)

    def save(self, folder: Path) -> None:
        """Write model, tokenizer, heads and settings. The model's own head is the members' mean
        where they read nothing else."""
        folder.mkdir(parents=True, exist_ok=True)
        if not self.heads.reads_history:
            self.own_head = self.heads.members.weight.mean(dim=0)
        self.model.save_pretrained(folder, safe_serialization=True)
        self.renderer.tokenizer.save_pretrained(folder)
        save_file(
            {name: value.contiguous() for name, value in self.heads.state_dict().items()},
            folder / HEADS,
        )
        (folder / SETTINGS).write_text(
            self.settings.model_dump_json(indent=2) + "\n", encoding="utf-8"
        )

    def prepare(self, config: FitQConfig) -> None:
        """Make ready to be fitted: adapters, precision, memory, and the GPU if there is one."""
        model: Any = self.model
        if config.lora_rank:
            adapters = LoraConfig(
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                target_modules="all-linear",
                exclude_modules=["score"],
            )
            self._adapted = get_peft_model(model, adapters)
        self.autocast = torch.bfloat16 if config.bf16 else None
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.use_accelerator()

    def use_accelerator(self) -> None:
        """Put everything on the GPU, if there is one."""
        if torch.cuda.is_available():
            cast(Any, self.model).to("cuda")
            self.heads.to("cuda")

    def finish(self) -> None:
        """After the fit: adapters become part of the backbone."""
        if self._adapted is not None:
            self.model = self._adapted.merge_and_unload()
            self._adapted = None

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained: the backbone, or its adapters, and the heads."""
        backbone = [
            parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not name.startswith("score.")
        ]
        return [*backbone, *self.heads.parameters()]

    @property
    def modules(self) -> tuple[PreTrainedModel, Any, Heads]:
        """The model, its adapters' view of it (None without), and the heads."""
        return self.model, self._adapted, self.heads

    @modules.setter
    def modules(self, modules: tuple[PreTrainedModel, Any, Heads]) -> None:
        self.model, self._adapted, self.heads = modules

    @property
    def own_head(self) -> torch.Tensor:
        """(H,): of the sequence-classification model that is saved."""
        head: torch.Tensor = cast(Any, self.model).score.weight[0].detach()
        return head

    @own_head.setter
    def own_head(self, head_H: torch.Tensor) -> None:
        with torch.no_grad():
            cast(Any, self.model).score.weight.copy_(head_H[None])

    # --- one pass

    def outputs(self, segments: Sequence[Segment]) -> Outputs:
        """What the heads say at every action end of the segments, in order, by one causal pass."""
        return self.own_outputs(segments) if self.divided is None else self.divided(segments)

    def own_outputs(self, segments: Sequence[Segment]) -> Outputs:
        """`outputs` by this process's modules, as they are."""
        return Outputs(*self.heads.outputs(self._read(segments)))

    @torch.no_grad()
    def features(
        self, segments: Sequence[Segment], *, tokens_per_batch: int = 8192
    ) -> list[Features]:
        """What the heads read of each segment, on the CPU."""
        self.model.eval()
        found: dict[int, Features] = {}
        lengths = [len(segment.ids) for segment in segments]
        for batch in token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None):
            chosen = [segments[index] for index in batch]
            ends = [len(segment.ends) for segment in chosen]
            both = (each.cpu().split(ends) for each in self._read(chosen))
            found |= dict(zip(batch, map(Features, *both), strict=True))
        return [found[index] for index in range(len(segments))]

    def _read(self, segments: Sequence[Segment]) -> Features:
        ids_BT = right_pad([segment.ids for segment in segments], value=self._pad_id)
        # Right padding needs no attention mask in a causal model, and no end is ever looked for by
        # a pad id.
        places = [
            Place(row, state, end, said)
            for row, segment in enumerate(segments)
            for (_, end), state, said in zip(
                segment.ends, segment.states, segment.said, strict=True
            )
        ]
        read: list[list[int]] = [[] for _ in segments]
        for place in places:
            read[place.row] += [place.state, place.end]
        with last_layer_at(self.backbone, [sorted({*each}) for each in read]):
            hidden_BTD = self.hidden(input_ids=ids_BT.to(self.model.device))
        return self.heads.read(hidden_BTD, places, words_VE=self.words)

    def raw(self, segments: Sequence[Segment]) -> torch.Tensor:
        """The mean member's output at every action end, in order: shape (N,)."""
        return self.outputs(segments).q_NM.mean(dim=1)

    def to_value(self, raw: torch.Tensor) -> torch.Tensor:
        """Head output to an expected return."""
        return torch.sigmoid(raw) if self.settings.loss == "bce" else raw

    @torch.no_grad()
    def estimates(
        self, segments: Sequence[Segment], *, tokens_per_batch: int = 8192, what: str = ""
    ) -> list[list[Estimate]]:
        """What is thought of the pair at each end of each segment; `what` names it where somebody
        waits for it."""
        self.model.eval()
        found: list[list[Estimate]] = [[] for _ in segments]
        lengths = [len(segment.ids) for segment in segments]
        batches = token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None)
        shown = progress(batches, what, total=len(batches), unit="batches") if what else batches
        for batch in shown:
            flat = iter(self._estimates(self.outputs([segments[index] for index in batch])))
            for index in batch:
                found[index] = [next(flat) for _ in segments[index].ends]
        return found

    @torch.no_grad()
    def estimates_of(self, features: Features, heads: Heads) -> list[Estimate]:
        """What other heads than its own think of what was read of one segment."""
        read = Features(*(each.to(self.model.device) for each in features))
        return self._estimates(Outputs(*heads.outputs(read)))

    def segment_values(
        self, segments: Sequence[Segment], *, tokens_per_batch: int = 8192
    ) -> list[list[float]]:
        """Q̂ at the action ends of each segment."""
        found = self.estimates(segments, tokens_per_batch=tokens_per_batch)
        return [[estimate.q for estimate in estimates] for estimates in found]

    def hidden(self, **inputs: torch.Tensor) -> torch.Tensor:
        """The backbone's last hidden state (B, T, D), in the precision asked for."""
        kind = self.model.device.type
        with torch.autocast(kind, dtype=self.autocast, enabled=self.autocast is not None):
            hidden: torch.Tensor = self.backbone(**inputs, use_cache=False).last_hidden_state
        return hidden

    @property
    def backbone(self) -> Any:
        """The model below its head."""
        return getattr(self.model, self.model.base_model_prefix)

    @property
    def words(self) -> torch.Tensor:
        """(V, E): the backbone's input embeddings."""
        found: torch.Tensor = self.backbone.get_input_embeddings().weight
        return found

    def _estimates(self, outputs: Outputs) -> list[Estimate]:
        q_N = self.to_value(outputs.q_NM.mean(dim=1)).tolist()
        v_N = self.to_value(outputs.v_N).tolist()
        value_NM = self.to_value(outputs.q_NM)
        alone = value_NM.shape[1] == 1
        spread_N = [None] * len(q_N) if alone else value_NM.std(dim=1).tolist()
        columns = q_N, spread_N, v_N, value_NM.tolist()
        return [Estimate(*each) for each in zip(*columns, strict=True)]

    def __call__(self, states: Sequence[Sequence[Message]], actions: Sequence[str]) -> list[float]:
        """Q̂ of every (state, action).

        Args:
            states: Chat messages, the system message first.
            actions: Texts; "" is ∅.

        Returns:
            Values in discounted outcomes, less κ times their spread; a state that cannot be cut to
            the context raises.

        Raises:
            ArtifactError: If a last message is longer than the context that Q was fitted with.
        """
        estimates: dict[int, tuple[float, float]] = {}
        together, apart = self._shared(states, actions)
        requests = [request for request, _ in together]
        for (_, places), found in zip(together, branch_members(self, requests), strict=True):
            spreads = (
                float(torch.tensor(values).std()) if len(values) > 1 else 0.0 for _, values in found
            )
            estimates |= zip(places, zip((q for q, _ in found), spreads, strict=True), strict=True)
        segments = [self._pair(states[place], actions[place]) for place in apart]
        for place, (one,) in zip(apart, self.estimates(segments), strict=True):
            estimates[place] = one.q, one.spread or 0.0
        return [q - self.kappa * spread for q, spread in (estimates[n] for n in range(len(states)))]

    def _shared(
        self, states: Sequence[Sequence[Message]], actions: Sequence[str]
    ) -> tuple[list[tuple[tuple[Segment, list[tuple[int, str]]], list[int]]], list[int]]:
        """States with several actions that fit as they are, for `branches`, and the places of their
        actions; and the places of all other pairs. A state is read once for all its actions."""
        places: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for place, state in enumerate(states):
            key = tuple((message["role"], message["content"]) for message in state)
            places.setdefault(key, []).append(place)
        together, apart = [], []
        for where in places.values():
            ids = self.renderer.prompt_ids(states[where[0]])
            longest = max(len(self.renderer.turn_ids(actions[n].strip())) for n in where)
            if len(where) == 1 or len(ids) + longest > self.settings.max_tokens:
                apart += where
                continue
            said = self.renderer.said(states[where[0]])
            trunk = Segment(ids, [(0, len(ids) - 1)], [len(ids) - 1], [said])
            together.append(((trunk, [(0, actions[n]) for n in where]), where))
        return together, sorted(apart)

    def _pair(self, state: Sequence[Message], action: str) -> Segment:
        ids = self.renderer.turn_ids(action.strip())
        fitted = self.renderer.fit(state, max_tokens=self.settings.max_tokens - len(ids))
        if fitted is None:
            raise ArtifactError(
                f"q: a message of {len(state[-1]['content'])} characters exceeds its context of "
                f"{self.settings.max_tokens} tokens. Fit Q with a larger fit-q.max_tokens."
            )
        pair = self.renderer.prompt_ids(fitted[0]) + ids
        end = len(pair) - 1
        return Segment(pair, [(0, end)], [end - len(ids)], [self.renderer.said(fitted[0])])
