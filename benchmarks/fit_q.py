"""How fast `fit-q` learns, beside the stock per-turn way to train the same model, and as well.

    python -m benchmarks.fit_q [--quick] [--logs PATH …] [--threads N] [--record]

Without --logs, conversations of the built-in shop with its scripted assistant. `ingest`, `returns`
and `init` make the rest; both fits start from that backbone, with a head of zeros, and see the
same training conversations, in as many passes, with the loss (cross-entropy, weights from
censoring), the optimiser's settings, the schedule and the real tokens per step in common. Both keep
the epoch that does best on the same tenth of the conversations.

ours: `iterppo.lm.q_fitting.fit`, one causal pass per conversation. V̂ is fitted along.
peer: `transformers.Trainer` on `AutoModelForSequenceClassification`, a sequence for every (s, a),
grouped by length, padded batch by batch (`benchmarks.per_turn_trainer`).

speedup: training turns per second, ours / peer: while the model is in training mode (what it is in
the steps of both, and in nothing else), after some steps on a model that is thrown away. Seconds
are the processor's, so that others on the machine take no part in it (on a GPU the wall's);
`speedup_wall` and `turns_per_s` are on the clock of the wall. speedup_4_members: of an ensemble of
four heads, ours.

tokens_ratio: tokens of the peer's sequences / of ours, padding left out. It is what one pass saves
where all tokens cost the same, and depends on nothing but the conversations.

loss_ratio: mean cross-entropy on held-out turns, ours / peer. loss_ratio_4_members: the mean of
four heads, each of which saw a bootstrap resample. loss_constant: of the training turns' mean.

padding_share: padding / all tokens, over an epoch of the batches that ours trains on.

flop_share: FLOP/s of our training steps / of `torch.mm` of two float32 matrices of 1024², both by
the processor's seconds. T tokens in sequences of t, through L layers of width D with P parameters
outside the embedding, are counted as 6 P T + 6 L D Σ t²: forward 2 per parameter and token, and
2 L D t² for causal attention (scores and mixtures of t²/2 pairs), twice as much backward. What
`iterppo.lm.read_positions` does not do in the last layer is not counted: its feed-forward part
counts at the positions p that are read, its attention as 12 D Σ (p + 1). Nor are padding, masks,
norms and the optimiser counted as work done.

branch_speedup: time of `QFunction.__call__` on pairs / of `branch_values`, for four other
actions in every state of held-out conversations. branch_difference: largest difference of the
values.

One thread, unless --threads says otherwise: on a machine that others use too, several threads wait
for each other most of the time, and seconds of the processor count the waiting.

The last line printed is a JSON object. `--record` writes it to `benchmarks/results/fit_q.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.machine import machine, say
from benchmarks.per_turn_trainer import fit_per_turn, pairs_of
from benchmarks.training_clock import Time, TrainingClock, now
from iterppo.artifact import open_artifact
from iterppo.config import FitQConfig, IngestConfig, InitConfig, ReturnsConfig, RolloutConfig
from iterppo.lm.branches import branch_values
from iterppo.lm.policy import load_policy, model_folder, prepare_libraries
from iterppo.lm.q_fitting import Target, fit, is_validation
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.q_log import Conversation, conversations_of
from iterppo.lm.rendering import Segment, decisions
from iterppo.lm.training import token_batches
from iterppo.logs.sources import LOG_FILE, LogFile
from iterppo.stages import ingest, init, returns, rollout

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "fit_q.json"
OTHER_ACTIONS = 4
MOST_BRANCHED = 40
"""Held-out conversations in which other actions are valued."""


class Log(NamedTuple):
    """What both fits start from."""

    conversations: list[Conversation]
    policy: Path
    system_prompt: str

    def of(self, split: str) -> list[Conversation]:
        """The conversations of a split."""
        return [c for c in self.conversations if c.split == split]

    def heldout(self) -> list[Target]:
        """Returns of the held-out conversations."""
        return [target for c in self.of("heldout") for target in c.monte_carlo()]


class Fitted(NamedTuple):
    """What came of a fit."""

    time: Time
    """In training mode."""
    steps: int
    heldout_loss: float


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.fit_q",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="300 conversations, four passes")
    parser.add_argument("--logs", nargs="+", help="conversations (default: of the shop)")
    parser.add_argument("--record", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(
        options.logs,
        num_conversations=300 if options.quick else 3_000,
        passes=4 if options.quick else 3,
        init_steps=30 if options.quick else 300,
    )
    text = json.dumps(found)
    if options.record:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(text)


def measure(
    logs: Sequence[str] | None, *, num_conversations: int, passes: int, init_steps: int
) -> dict[str, Any]:
    """All of it.

    Args:
        logs: Files of conversations; None: the shop's.
        num_conversations: How many of them, spread over the log.
        passes: Over the training turns.
        init_steps: Of the policy that both fits start from.
    """
    found: dict[str, Any] = {"machine": machine(), "threads": torch.get_num_threads()}
    prepare_libraries()
    config = FitQConfig(epochs=passes, max_steps=10**9, members=1)
    with tempfile.TemporaryDirectory(prefix="iterppo-benchmark-") as name:
        say("makes a log, returns and a policy")
        log = make_log(logs, Path(name), num_conversations, init_steps, config)
        found |= measure_fits(log, config)
    found["load_after"] = os.getloadavg()[0]
    return found


def make_log(
    logs: Sequence[str] | None,
    folder: Path,
    num_conversations: int,
    init_steps: int,
    config: FitQConfig,
) -> Log:
    """Conversations as `fit-q` sees them, and π_0."""
    if logs is None:
        rollout.run(
            RolloutConfig(conversations=num_conversations),
            policy=None,
            out=folder / "log",
            scripted=True,
        )
        logs = [str(folder / "log" / LOG_FILE)]
    trajectories, paid, policy = (folder / name for name in ("trajectories", "returns", "init"))
    ingest.run(
        IngestConfig(),
        logs=[LogFile(path, path) for path in logs],
        out=trajectories,
        rejects=folder / "rejects",
        workers=1,
    )
    returns.run(ReturnsConfig(), trajectories=trajectories, out=paid)
    init.run(InitConfig(max_steps=init_steps), trajectories=trajectories, out=policy)
    loaded = load_policy(policy)
    pairs = list(
        zip(
            open_artifact(trajectories).conversations(),
            open_artifact(paid).conversations(),
            strict=True,
        )
    )
    pairs = pairs[:: max(1, len(pairs) // num_conversations)][:num_conversations]
    conversations = conversations_of(
        pairs,
        loaded.renderer,
        system_prompt=loaded.settings.system_prompt,
        max_tokens=config.max_tokens,
        fate_known_until=None,
    )
    return Log(list(conversations), model_folder(policy), loaded.settings.system_prompt)


def measure_fits(log: Log, config: FitQConfig) -> dict[str, Any]:
    """Both fits, and what ours is made of."""
    targets = [t for c in log.of("train") for t in c.monte_carlo() if t.usable]
    train = [t for t in targets if not is_validation(t.conversation_id, config)]
    lengths = [len(target.segment.ids) for target in train]
    batches = token_batches(lengths, tokens_per_batch=config.tokens_per_batch, seed=config.seed)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)

    def peer(config: FitQConfig) -> Fitted:
        made = fit_per_turn(
            log.policy,
            config,
            train=pairs_of(train),
            validation=pairs_of(t for t in targets if is_validation(t.conversation_id, config)),
            heldout=pairs_of(log.heldout()),
            tokens_per_step=sum(lengths) / len(batches),
        )
        return Fitted(made.time, made.steps, _cross_entropy(made.values, log.heldout()))

    say("warms up")
    few = config.model_copy(update={"max_steps": 3})
    fit_ours(log, few)
    peer(few)
    say("fits Q")
    q, one = fit_ours(log, config)
    mm_flop_per_s = _mm_flop_per_s(q.model.device)
    say(f"{one.time.wall_s:.1f} s of training; with four members")
    _, four = fit_ours(log, config.model_copy(update={"members": 4}))
    say(f"{four.time.wall_s:.1f} s; the peer")
    theirs = peer(config)
    say(f"{theirs.time.wall_s:.1f} s; values other actions")
    pairs = pairs_of(train)
    turns_seen = len(pairs) * config.epochs
    flop = training_flop(q, [t.segment for t in train]) * config.epochs
    mean = sum(p.weight * p.return_ for p in pairs) / sum(p.weight for p in pairs)
    heldout = log.heldout()
    constant = _cross_entropy([mean] * len(pairs_of(heldout)), heldout)
    return {
        "conversations": len(log.conversations),
        "turns_per_pass": len(pairs),
        "passes": config.epochs,
        "steps": one.steps,
        "steps_peer": theirs.steps,
        "speedup": round(theirs.time.busy_s / one.time.busy_s, 2),
        "speedup_4_members": round(theirs.time.busy_s / four.time.busy_s, 2),
        "speedup_wall": round(theirs.time.wall_s / one.time.wall_s, 2),
        "turns_per_s": round(turns_seen / one.time.wall_s, 1),
        "turns_per_s_peer": round(turns_seen / theirs.time.wall_s, 1),
        "tokens_ratio": round(sum(len(pair.ids) for pair in pairs) / sum(lengths), 2),
        "loss_ratio": round(one.heldout_loss / theirs.heldout_loss, 4),
        "loss_ratio_4_members": round(four.heldout_loss / theirs.heldout_loss, 4),
        "loss": round(one.heldout_loss, 4),
        "loss_peer": round(theirs.heldout_loss, 4),
        "loss_constant": round(constant, 4),
        "padding_share": round(1 - sum(lengths) / padded, 4),
        "flop_share": round(flop / one.time.busy_s / mm_flop_per_s, 3),
        "mm_gflop_per_s": round(mm_flop_per_s / 1e9, 1),
        **measure_branches(log, q),
    }


def fit_ours(log: Log, config: FitQConfig) -> tuple[QFunction, Fitted]:
    """Q̂, and how it went."""
    settings = QSettings(loss="bce", max_tokens=config.max_tokens, members=config.members)
    q = QFunction.from_policy(log.policy, settings, seed=config.seed)
    q.prepare(config)
    with TrainingClock(q.model) as clock:
        made = fit(q, [t for c in log.of("train") for t in c.monte_carlo()], config)
    heldout = log.heldout()
    values = [
        value
        for target, found in zip(
            heldout, q.segment_values([t.segment for t in heldout]), strict=True
        )
        for value, weight in zip(found, target.weights, strict=True)
        if weight > 0
    ]
    return q, Fitted(clock.time, len(made.losses), _cross_entropy(values, heldout))


def training_flop(q: QFunction, segments: Sequence[Segment]) -> float:
    """Forward and backward over these segments (see above)."""
    model: Any = q.model
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    last_mlp = sum(p.numel() for p in model.model.layers[-1].mlp.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    elsewhere = sum(p.numel() for p in q.parameters()) - embedding - last_mlp
    flop = 0.0
    for segment in segments:
        tokens = len(segment.ids)
        read = [position for _, position in segment.ends] + segment.states
        flop += 6 * elsewhere * tokens + 6 * last_mlp * len(read)
        flop += 6 * (layers - 1) * width * tokens**2 + 12 * width * sum(p + 1 for p in read)
    return flop


def measure_branches(log: Log, q: QFunction) -> dict[str, Any]:
    """Values of actions that were taken elsewhere."""
    generator = random.Random(0)
    chosen = log.of("heldout")[:MOST_BRANCHED]
    actions = [turn.action for c in chosen for turns in c.turns for turn in turns]
    branches: list[tuple[Segment, list[tuple[int, str]]]] = []
    states, others = [], []
    for conversation in chosen:
        seen = list(decisions(conversation.rows, system_prompt=log.system_prompt))
        for segment in conversation.segments:
            asked = [
                (end, generator.choice(actions))
                for end in range(len(segment.ends))
                for _ in range(OTHER_ACTIONS)
            ]
            # A pair that exceeds the context has no value in the one, and is cut by the other.
            asked = [
                (end, action)
                for end, action in asked
                if segment.states[end] + 1 + len(q.renderer.turn_ids(action))
                <= q.settings.max_tokens
            ]
            branches.append((segment, asked))
            for end, action in asked:
                states.append(seen[segment.ends[end][0]].state)
                others.append(action)

    def together() -> list[float]:
        return [v for values in branch_values(q, branches) for v in values]

    def apart() -> list[float]:
        return q(states, others)

    together(), apart()  # both then find their texts tokenised
    (together_time, joint), (apart_time, alone) = (
        _timed(function, q.model.device) for function in (together, apart)
    )
    difference = max(abs(a - b) for a, b in zip(joint, alone, strict=True))
    return {
        "branch_speedup": round(apart_time.busy_s / together_time.busy_s, 2),
        "branch_difference": difference,
        "branches": len(others),
    }


def _timed(function: Callable[[], list[float]], device: torch.device) -> tuple[Time, list[float]]:
    begun = now(device)
    found = function()
    return now(device).since(begun), found


def _cross_entropy(values: Sequence[float], targets: Sequence[Target]) -> float:
    """Weighted mean over the turns of the targets that have a return, in nats."""
    total = mass = 0.0
    for value, pair in zip(values, pairs_of(targets), strict=True):
        q = min(max(value, 1e-7), 1 - 1e-7)
        total -= pair.weight * (pair.return_ * math.log(q) + (1 - pair.return_) * math.log(1 - q))
        mass += pair.weight
    return total / mass


def _mm_flop_per_s(device: torch.device, *, repeats: int = 20) -> float:
    """The fastest of several products of two float32 matrices."""
    left, right = (torch.randn(1024, 1024, device=device) for _ in range(2))
    shortest = math.inf
    for _ in range(repeats):
        begun = now(device)
        torch.mm(left, right)
        shortest = min(shortest, now(device).since(begun).busy_s)
    return 2 * 1024.0**3 / shortest


if __name__ == "__main__":
    main()
