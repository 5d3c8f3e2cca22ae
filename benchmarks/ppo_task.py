"""What both sides of `benchmarks.ppo_vs_trl` are given and give back, and how they are watched.

    task.json ─ one side, in a process of its own ─ result.json

It imports nothing of iterppo: the peer has an environment of its own.

Shapes: B sequences, S positions of prompt and completion together.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

TASK, RESULT = "task.json", "result.json"
GOOD_SHARE = 4
"""One token in so many is a good one."""


@dataclass(frozen=True)
class Task:
    """Policy, prompts, reward and settings."""

    policy: str
    """Hugging Face folder of the policy, which both sides start from."""
    states: list[list[dict[str, str]]]
    """Chat messages; a prompt each."""
    prompt_ids: list[list[int]]
    """The tokens of each."""
    answer_id: int
    """The token after which the assistant writes."""
    completions_per_update: int
    minibatches: int
    epochs: int
    microbatch_size: int
    updates: int
    max_new_tokens: int
    learning_rate: float
    kl_coefficient: float
    value_coefficient: float
    value_clip: float
    clip: float
    gamma: float
    lambda_: float
    reward_width: int
    reward_layers: int
    seed: int
    threads: int
    critic_samples: int = 0
    """Completions that our critic's head is fitted on before the first update."""
    generation: str = "loop"
    """How ours samples."""


@dataclass
class Result:
    """How it went, update by update."""

    wall_s: list[float] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)
    """Of the processor."""
    scores: list[float] = field(default_factory=list)
    """Mean reward of the completions of the update."""
    tokens: list[float] = field(default_factory=list)
    """Mean length of its completions."""
    phases_s: dict[str, float] = field(default_factory=dict)
    """The processor's seconds in each part, over all updates but the first."""
    parameters: int = 0
    start_mb: float = 0.0
    """Memory before anything but the libraries was loaded (VmRSS)."""
    peak_mb: float = 0.0
    """The most memory that the process ever held (VmHWM)."""


def write(folder: Path, name: str, content: Task | Result) -> None:
    """As JSON."""
    (folder / name).write_text(json.dumps(asdict(content)), encoding="utf-8")


def read_task(folder: Path) -> Task:
    """What `write` wrote."""
    return Task(**json.loads((folder / TASK).read_text(encoding="utf-8")))


def read_result(folder: Path) -> Result:
    """What a side wrote."""
    return Result(**json.loads((folder / RESULT).read_text(encoding="utf-8")))


class ToyReward(torch.nn.Module):
    """Share of good tokens among those that the assistant wrote, at the price of a transformer.

    In the shape of a sequence classifier, as TRL asks for: a backbone whose last hidden state
    `score` reads. The backbone runs a small Llama of random weights, whose output counts nothing.
    """

    base_model_prefix = "model"

    def __init__(self, task: Task, *, vocab_size: int, num_control: int) -> None:
        super().__init__()
        self.model = _Counting(
            LlamaModel(
                LlamaConfig(
                    vocab_size=vocab_size,
                    hidden_size=task.reward_width,
                    intermediate_size=3 * task.reward_width,
                    num_hidden_layers=task.reward_layers,
                    num_attention_heads=max(1, task.reward_width // 32),
                )
            ),
            answer_id=task.answer_id,
            num_control=num_control,
        )
        self.score = torch.nn.Identity()


class _Counting(torch.nn.Module):
    def __init__(self, network: LlamaModel, *, answer_id: int, num_control: int) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.answer_id, self.num_control = answer_id, num_control

    @torch.no_grad()
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any
    ) -> SimpleNamespace:
        hidden_BSD = self.network(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        positions_S = torch.arange(input_ids.shape[1], device=input_ids.device)
        start_B1 = (
            torch.where(input_ids == self.answer_id, positions_S, -1).max(1, keepdim=True).values
        )
        written_BS = (
            (positions_S > start_B1) & (input_ids >= self.num_control) & attention_mask.bool()
        )
        good_BS = written_BS & (input_ids % GOOD_SHARE == 0)
        share_BS = good_BS.cumsum(1) / written_BS.cumsum(1).clamp(min=1)
        return SimpleNamespace(hidden_states=(share_BS.unsqueeze(-1) + 0.0 * hidden_BSD[..., :1],))


class Watch:
    """Times updates and, by wrapping the functions that do them, their parts."""

    def __init__(self) -> None:
        self.result = Result(start_mb=_memory_mb("VmRSS"))
        self._since = (time.perf_counter(), time.process_time())
        self._nested = 0

    def start(self) -> None:
        """Now the first update begins."""
        self._since = (time.perf_counter(), time.process_time())

    def update_ended(self, score: float, tokens: float) -> None:
        """One update is done."""
        now = (time.perf_counter(), time.process_time())
        if not self.result.wall_s:
            self.result.phases_s = dict.fromkeys(self.result.phases_s, 0.0)
        self.result.wall_s.append(now[0] - self._since[0])
        self.result.busy_s.append(now[1] - self._since[1])
        self.result.scores.append(score)
        self.result.tokens.append(tokens)
        self._since = now

    def wrap(self, owner: Any, name: str, phase: str | Callable[..., str]) -> None:
        """Count the time of a function under a phase; of nested ones the outermost counts."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._counted(phase if isinstance(phase, str) else phase(*args, **kwargs)):
                return function(*args, **kwargs)

        setattr(owner, name, timed)

    @contextmanager
    def _counted(self, phase: str) -> Iterator[None]:
        self._nested += 1
        begun = time.process_time()
        try:
            yield
        finally:
            self._nested -= 1
            if not self._nested:
                taken = time.process_time() - begun
                self.result.phases_s[phase] = self.result.phases_s.get(phase, 0.0) + taken

    def finish(self, folder: Path, *, parameters: int) -> None:
        """Write what was seen."""
        self.result.phases_s.pop("update", None)
        rest = sum(self.result.busy_s[1:]) - sum(self.result.phases_s.values())
        self.result.phases_s["update"] = rest
        self.result.parameters = parameters
        self.result.peak_mb = _memory_mb("VmHWM")
        write(folder, RESULT, self.result)


def _memory_mb(what: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {what}")
