"""How fast and how lean `ppo` is beside TRL's PPOTrainer, and whether it learns as well.

    python -m benchmarks.ppo_vs_trl [--quick] [--parts 1m learning 50m] [--repeats N] [--record]
                                    [--environment DIR]

The peer is `trl.experimental.ppo.PPOTrainer` of TRL 1.12, the last that had one. It gets an
environment of its own (about a gigabyte; made once, beside the build outputs), and every run of
either side is a process of its own: ours and the peer's in turn, as often as --repeats says.

Both sides have in common: the policy that they start from (weights and tokenizer), the prompts, the
reward (`benchmarks.ppo_task.ToyReward`: a share of tokens, at the price of a small transformer),
completions per update, length limit, temperature 1, minibatches, epochs, learning rate and its
linear decay, clip ranges, γ, λ, the coefficients of KL (k1, in the reward) and value loss, float32,
threads. What differs:

* critic: ours a head on the policy's backbone; the peer's a second model of the policy's size,
  which starts from the policy's weights and a head of zeros. It has no other way.
* prompts of an update: ours half as many, each completed twice (TRL's GRPOTrainer, on which ours
  stands, knows no less than two), and read once for both; the peer's all drawn singly.
* microbatches: ours of 16 (of 8 for the large policy); the peer's are its minibatches, since its
  accumulation runs on over minibatches and would take one step an epoch.
* a truncated completion: ours is paid the critic's estimate, the peer's its reward.
* the gradient's norm: ours clipped at 1, the peer's not at all.

speedup: completions per second of an update, ours / peer; the median over updates (the first left
out) and the best of the repeats, by the processor's seconds, so that others on the machine take no
part in it; `…_wall` by the wall's. The learning rate is 1e-9, so that both go on writing
completions of the same lengths.

memory_ratio: the most memory that the process ever held (VmHWM), libraries included, ours / peer.

learning: mean reward of every update, over three seeds, at equal numbers of completions, both sides
at a learning rate of 1e-3 (of 3e-4 and 1e-3 the better one for both). learning_ahead: ours less the
peer's, over all updates and over the last four, with a 95 % interval (Student's t, of the seeds'
differences).

seconds_…: where the processor's seconds of an update go. old: log-probabilities and values of
what was sampled, where they are computed anew. generation_of_bound: what generation takes / the
least that it could: the larger of reading all weights once a token (at the bandwidth of a sum over
much memory) and of their products (at the FLOP/s of `torch.mm`). update_flop_share: FLOP/s of our
updates / of `torch.mm`: 6 per parameter and token, for completions and for prompts read once.

The last line printed is a JSON object. `--record` writes it to
`benchmarks/results/ppo_vs_trl.json`, where parts that were not measured stay as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.machine import machine, say
from benchmarks.over_seeds import interval
from benchmarks.ppo_task import TASK, Result, Task, read_result, write
from iterppo.lm.cloning import Example, clone
from iterppo.lm.policy import prepare_libraries, save_policy
from iterppo.lm.rendering import Message, Renderer
from iterppo.lm.scratch import CHAT_TEMPLATE, CONTROL_TOKENS, END, PAD, build_model

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "ppo_vs_trl.json"
ENVIRONMENT = ROOT / "build" / "ppo_vs_trl"
PARTS = ("1m", "learning", "50m")
PEER = ["torch==2.13.0", "trl==1.12.0", "transformers==5.23.0"]
SIDES = {"ours": "benchmarks.ppo_ours", "peer": "benchmarks.trl_ppo_peer"}
FIRST_SIGN = 0x4E00
SIGNS_SAID = 200
"""How many of the signs occur in prompts and in what the policy is taught."""
NO_LEARNING = 1e-9
LEARNING_RATE = 1e-3
LEARNING_UPDATES = 16
LEARNING_SEEDS = 3
SYSTEM = "Go!"


class Size(NamedTuple):
    """A policy, and how much of the work is measured with it."""

    name: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    taught_steps: int
    """Of cloning texts that end; 0: random weights, whose completions all reach the limit."""
    settings: dict[str, Any]


SMALL = Size(
    "1m",
    vocabulary=1024,
    width=128,
    layers=4,
    heads=4,
    taught_steps=150,
    settings={"completions_per_update": 128, "microbatch_size": 16, "updates": 5},
)
LARGE = Size(
    "50m",
    vocabulary=16_384,
    width=512,
    layers=12,
    heads=8,
    taught_steps=0,
    settings={"completions_per_update": 32, "microbatch_size": 8, "updates": 3},
)
COMMON: dict[str, Any] = {
    "minibatches": 2,
    "epochs": 2,
    "max_new_tokens": 24,
    "learning_rate": NO_LEARNING,
    "kl_coefficient": 0.03,
    "value_coefficient": 0.5,
    "value_clip": 0.2,
    "clip": 0.2,
    "gamma": 1.0,
    "lambda_": 0.95,
    "reward_width": 64,
    "reward_layers": 2,
    "seed": 0,
}


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.ppo_vs_trl",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="the speed of the small policy alone")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side (2)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--record", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    parser.add_argument(
        "--environment", type=Path, default=ENVIRONMENT, help="the peer's; made where it is missing"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepare_libraries()
    found: dict[str, Any] = {"machine": machine(), "threads": options.threads}
    pythons = {"ours": sys.executable, "peer": str(peer_environment(options.environment))}
    with tempfile.TemporaryDirectory(prefix="iterppo-benchmark-") as name:
        for part in ["1m"] if options.quick else options.parts:
            size = LARGE if part == "50m" else SMALL
            say(f"makes a policy ({size.name})")
            task = make_task(Path(name) / part, size, threads=options.threads)
            if part == "learning":
                found |= measure_learning(task, pythons)
            else:
                found |= measure_speed(task, size, pythons, repeats=options.repeats)
    found["load_after"] = os.getloadavg()[0]
    text = json.dumps(found)
    if options.record:
        RESULT.parent.mkdir(exist_ok=True)
        before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        RESULT.write_text(json.dumps(before | found, indent=2) + "\n", encoding="utf-8")
    print(text)


# --- what both are given


def peer_environment(folder: Path) -> Path:
    """The interpreter of the peer's environment, which is made where it is not whole."""
    python, done = folder / "bin" / "python", folder / "installed.json"
    if not done.exists() or json.loads(done.read_text(encoding="utf-8")) != PEER:
        say(f"makes the peer's environment in {folder}")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER], check=True)
        done.write_text(json.dumps(PEER), encoding="utf-8")
    return python


def make_task(folder: Path, size: Size, *, threads: int) -> Task:
    """A policy that writes signs, prompts of signs, and how to train."""
    torch.manual_seed(0)
    generator = random.Random(0)
    renderer = Renderer(signs_tokenizer(size.vocabulary))
    model = build_model(
        renderer.tokenizer,
        hidden_size=size.width,
        num_layers=size.layers,
        num_heads=size.heads,
        context_tokens=256,
    )
    states: list[list[Message]] = [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": _signs(generator, generator.randint(12, 60))},
        ]
        for _ in range(256)
    ]
    limit = COMMON["max_new_tokens"]
    if size.taught_steps:
        clone(
            model,
            [
                _example(renderer, generator.choice(states), _signs(generator, length))
                for length in (generator.randint(4, limit - 2) for _ in range(2000))
            ],
            pad_id=renderer.tokenizer.pad_token_id,
            context_weight=0.1,
            epochs=100,
            max_steps=size.taught_steps,
            tokens_per_batch=2048,
            learning_rate=3e-3,
            seed=0,
        )
    save_policy(
        folder,
        model=model,
        renderer=renderer,
        settings={
            "system_prompt": SYSTEM,
            "max_prompt_tokens": 100,
            "max_new_tokens": limit,
            "temperature": 1.0,
        },
    )
    prompts = [renderer.prompt_ids(state) for state in states]
    return Task(
        policy=str(folder),
        states=states,
        prompt_ids=prompts,
        answer_id=prompts[0][-1],
        threads=threads,
        **COMMON,
        **size.settings,
    )


def signs_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """One character, one token: texts and tokens are the same thing to both sides."""
    ascii_signs = [chr(code) for code in range(33, 127)]
    rest = vocab_size - len(ascii_signs) - len(CONTROL_TOKENS)
    signs = [*CONTROL_TOKENS, *ascii_signs, *(chr(FIRST_SIGN + n) for n in range(rest))]
    numbers = {sign: number for number, sign in enumerate(signs)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[token for token in CONTROL_TOKENS if token not in (PAD, END)],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _signs(generator: random.Random, length: int) -> str:
    return "".join(chr(FIRST_SIGN + generator.randrange(SIGNS_SAID)) for _ in range(length))


def _example(renderer: Renderer, state: list[Message], answer: str) -> Example:
    prompt, action = renderer.prompt_ids(state), renderer.action_ids(answer)
    return Example([*prompt, *action], [False] * len(prompt) + [True] * len(action))


# --- what is measured


def run(side: str, task: Task, pythons: dict[str, str]) -> Result:
    """One side in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="iterppo-benchmark-") as name:
        write(Path(name), TASK, task)
        ended = subprocess.run(
            [pythons[side], "-W", "ignore", "-m", SIDES[side], name],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(task.threads)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if ended.returncode:
            raise RuntimeError(f"{side} ended with {ended.returncode}: {ended.stdout[-4000:]}")
        return read_result(Path(name))


def measure_speed(
    task: Task, size: Size, pythons: dict[str, str], *, repeats: int
) -> dict[str, Any]:
    """Completions per second, memory, and where the time goes."""
    results: dict[str, list[Result]] = {side: [] for side in SIDES}
    products, bytes_per_s = [_mm_flop_per_s()], _read_bytes_per_s()
    for repeat in range(repeats):
        for side in SIDES:
            say(f"{size.name}, {side}, run {repeat + 1} of {repeats}")
            results[side].append(run(side, task, pythons))
        products.append(_mm_flop_per_s())
    n, flop_per_s = size.name, max(products)
    busy, wall, memory = (
        {side: min(of(result) for result in results[side]) for side in SIDES}
        for of in (
            lambda result: statistics.median(result.busy_s[1:]),
            lambda result: statistics.median(result.wall_s[1:]),
            lambda result: result.peak_mb,
        )
    )
    number = task.completions_per_update
    ours = min(results["ours"], key=lambda result: statistics.median(result.busy_s[1:]))
    theirs = min(results["peer"], key=lambda result: statistics.median(result.busy_s[1:]))
    parts = {name: taken / (task.updates - 1) for name, taken in ours.phases_s.items()}
    written = number * statistics.mean(ours.tokens[1:])
    weights = ours.parameters
    least = task.max_new_tokens * 4 * weights / bytes_per_s, 2 * weights * written / flop_per_s
    prompts = statistics.mean(len(ids) for ids in task.prompt_ids) * number / 2
    flop = 6 * weights * (prompts + written) * task.epochs
    return {
        f"parameters_{n}": weights,
        f"speedup_{n}": round(busy["peer"] / busy["ours"], 2),
        f"speedup_wall_{n}": round(wall["peer"] / wall["ours"], 2),
        f"memory_ratio_{n}": round(memory["ours"] / memory["peer"], 3),
        f"completions_per_s_{n}": round(number / busy["ours"], 1),
        f"completions_per_s_peer_{n}": round(number / busy["peer"], 1),
        f"peak_mb_{n}": round(memory["ours"]),
        f"peak_mb_peer_{n}": round(memory["peer"]),
        f"start_mb_{n}": round(ours.start_mb),
        f"start_mb_peer_{n}": round(theirs.start_mb),
        f"tokens_per_completion_{n}": round(statistics.mean(ours.tokens[1:]), 1),
        f"tokens_per_completion_peer_{n}": round(statistics.mean(theirs.tokens[1:]), 1),
        f"seconds_{n}": {name: round(taken, 3) for name, taken in parts.items()},
        f"seconds_peer_{n}": {
            name: round(taken / (task.updates - 1), 3) for name, taken in theirs.phases_s.items()
        },
        f"generation_of_bound_{n}": round(parts["generation"] / max(least), 2),
        f"generation_of_bandwidth_bound_{n}": round(parts["generation"] / least[0], 2),
        f"update_flop_share_{n}": round(flop / parts["update"] / flop_per_s, 3),
        f"mm_gflop_per_s_{n}": round(flop_per_s / 1e9, 1),
        f"read_gb_per_s_{n}": round(bytes_per_s / 1e9, 1),
    }


def measure_learning(task: Task, pythons: dict[str, str]) -> dict[str, Any]:
    """Mean rewards of updates."""
    found: dict[str, Any] = {}
    curves: dict[str, np.ndarray] = {}
    for side in SIDES:
        of_seeds = []
        for seed in range(LEARNING_SEEDS):
            say(f"learning, {side}, seed {seed}")
            changed = dataclasses.replace(
                task, updates=LEARNING_UPDATES, learning_rate=LEARNING_RATE, seed=seed
            )
            of_seeds.append(run(side, changed, pythons).scores)
        curves[side] = np.array(of_seeds)
        suffix = "" if side == "ours" else "_peer"
        found[f"learning{suffix}"] = curves[side].mean(axis=0).round(3).tolist()
    ahead_SU = curves["ours"] - curves["peer"]
    found["learning_ahead"] = interval(ahead_SU.mean(axis=1))
    found["learning_ahead_last"] = interval(ahead_SU[:, -4:].mean(axis=1))
    return found


def _mm_flop_per_s(*, repeats: int = 20) -> float:
    """The fastest of several products of two float32 matrices, by the processor's seconds."""
    left, right = (torch.randn(1024, 1024) for _ in range(2))
    shortest = math.inf
    for _ in range(repeats):
        begun = time.process_time()
        torch.mm(left, right)
        shortest = min(shortest, time.process_time() - begun)
    return 2 * 1024.0**3 / shortest


def _read_bytes_per_s(*, repeats: int = 10) -> float:
    """The fastest of several sums over 256 MB, which reads every byte once."""
    values = torch.ones(64 * 2**20)
    shortest = math.inf
    for _ in range(repeats):
        begun = time.process_time()
        values.sum()
        shortest = min(shortest, time.process_time() - begun)
    return values.numel() * 4 / shortest


if __name__ == "__main__":
    main()
