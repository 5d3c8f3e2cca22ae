"""One small artifact of every published contract: what every later release must still read.

    python -m tests.data.make_artifacts    # writes those that do not exist yet, changes none

`ROWS` is written by hand; the rows of a kind have a null and a value in every column that may be
null.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from iterppo.artifact import ArtifactWriter, InputRecord
from iterppo.contracts import current_version
from iterppo.pipeline import STAGES

FOLDER = Path(__file__).resolve().parent / "artifacts"

MADE_BY = {
    "trajectories": "ingest",
    "rejects": "ingest",
    "returns": "returns",
    "actions": "actions",
    "credit": "credit",
    "q": "fit-q",
    "prompts": "prompts",
    "policy": "ppo",
    "evaluation": "evaluate",
}
"""The stage that makes the kind."""

ROWS: dict[str, list[dict[str, Any]]] = {
    "trajectories": [
        {
            "conversation_id": "shop/1",
            "turn": 1,
            "customer": "Hello,\nis anybody there? ☹️",
            "suggestion": "Yes! What do you need?",
            "sent": "Yes. What do you need?",
            "adoption": "edited",
            "edit_distance": 0.045,
            "outcome_before": False,
            "reward": 0.0,
            "done": False,
            "censored": False,
            "customer_after": None,
            "policy_version": "3f6c",
            "persona": "bold",
            "suggestion_logprob": -12.25,
            "customer_time": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            "sent_time": datetime(2026, 1, 2, 3, 5, tzinfo=UTC),
            "split": "train",
            "customer_id": "k-7",
            "business_id": "b-1",
            "facts": "product: roof\\nlanguage: en",
        },
        {
            "conversation_id": "shop/1",
            "turn": 2,
            "customer": "A new roof.",
            "suggestion": None,
            "sent": None,
            "adoption": "abstained",
            "edit_distance": None,
            "outcome_before": False,
            "reward": 1.0,
            "done": True,
            "censored": False,
            "customer_after": "When can you come by?",
            "policy_version": "3f6c",
            "persona": None,
            "suggestion_logprob": None,
            "customer_time": None,
            "sent_time": None,
            "split": "train",
            "customer_id": None,
            "business_id": None,
            "facts": None,
        },
        {
            "conversation_id": "star/6",
            "turn": 1,
            "customer": None,
            "suggestion": None,
            "sent": "Welcome",
            "adoption": None,
            "edit_distance": None,
            "outcome_before": False,
            "reward": 0.0,
            "done": False,
            "censored": True,
            "customer_after": None,
            "policy_version": None,
            "persona": None,
            "suggestion_logprob": None,
            "customer_time": None,
            "sent_time": datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
            "split": "heldout",
            "customer_id": None,
            "business_id": None,
            "facts": None,
        },
    ],
    "rejects": [
        {
            "source": "logs/2026-01.jsonl.gz",
            "line": 2**40,
            "reason": "not UTF-8 at byte 7",
            "raw": '{"a": "\\xff"}',
        },
        {
            "source": "logs/ü.jsonl",
            "line": 1,
            "reason": "messages.1.role: Input should be 'customer' or 'business'",
            "raw": "",
        },
    ],
    "returns": [
        {
            "conversation_id": "shop/1",
            "turn": 1,
            "reward": 0.0,
            "return": 0.99,
            "weight": 1.0,
            "horizon": 2,
        },
        {
            "conversation_id": "shop/1",
            "turn": 2,
            "reward": 1.0,
            "return": 1.0,
            "weight": 1.25,
            "horizon": 1,
        },
        {
            "conversation_id": "star/6",
            "turn": 1,
            "reward": 0.0,
            "return": None,
            "weight": 1.0,
            "horizon": None,
        },
    ],
    "q": [
        {
            "conversation_id": "shop/1",
            "turn": 1,
            "q": 0.625,
            "q_spread": 0.125,
            "return": 0.99,
            "weight": 1.0,
            "split": "train",
            "v": 0.5,
        },
        {
            "conversation_id": "star/6",
            "turn": 1,
            "q": -0.5,
            "q_spread": None,
            "return": None,
            "weight": 0.0,
            "split": "heldout",
            "v": None,
        },
    ],
    "actions": [
        {
            "conversation_id": "shop/1",
            "turn": 1,
            "sample": 1,
            "action": "Which room?\n🙂",
            "logprob": -3.5,
            "policy_version": "3f6c",
            "split": "train",
        },
        {
            "conversation_id": "shop/1",
            "turn": 1,
            "sample": 2,
            "action": None,
            "logprob": None,
            "policy_version": "scripted",
            "split": "heldout",
        },
    ],
    "credit": [
        {
            "conversation_id": "shop/1",
            "turn": 1,
            "num_tokens": 5,
            "implicit_reward": -0.75,
            "normalised_reward": 0.25,
            "weight": 0.25,
            "split": "train",
        },
        {
            "conversation_id": "star/6",
            "turn": 1,
            "num_tokens": 0,
            "implicit_reward": None,
            "normalised_reward": None,
            "weight": None,
            "split": "heldout",
        },
    ],
    "prompts": [
        {
            "prompt_id": "shop/1/1",
            "conversation_id": "shop/1",
            "turn": 1,
            "prompt": [
                {"role": "system", "content": "You suggest the next message."},
                {"role": "user", "content": "Hello,\nis anybody there? ☹️"},
            ],
            "n_tokens": 31,
            "num_cut_messages": 0,
            "split": "train",
        },
        {
            "prompt_id": "shop/1/2",
            "conversation_id": "shop/1",
            "turn": 2,
            "prompt": [],
            "n_tokens": 0,
            "num_cut_messages": 3,
            "split": "heldout",
        },
    ],
    "policy": [
        {
            "step": 0,
            "prompt_id": "shop/1/1",
            "completion": "Yes!",
            "tokens": [301, 2, 2**31 - 1],
            "truncated": False,
            "q": 0.625,
            "kl": -0.5,
            "advantage": 0.25,
        },
        {
            "step": 40,
            "prompt_id": "shop/1/2",
            "completion": "",
            "tokens": [],
            "truncated": True,
            "q": 0.0,
            "kl": 0.0,
            "advantage": -1e-300,
        },
    ],
    "evaluation": [
        {
            "method": "dr",
            "logprobs": "logged",
            "policy_version": "3f6c",
            "behaviour_version": "scripted",
            "gamma": 1.0,
            "supported": True,
            "reason": None,
            "value": 0.375,
            "value_low": 0.25,
            "value_high": 0.5,
            "difference": 0.125,
            "difference_low": -0.0625,
            "difference_high": 0.25,
            "num_conversations": 400,
            "effective_sample_size": 81.5,
            "max_weight_share": 0.03125,
            "share_in_range": 0.75,
            "mean_ratio": 1.125,
        },
        {
            "method": "fqe",
            "logprobs": None,
            "policy_version": "3f6c",
            "behaviour_version": "scripted",
            "gamma": 0.99,
            "supported": False,
            "reason": "no Q was fitted for the new policy",
            "value": None,
            "value_low": None,
            "value_high": None,
            "difference": None,
            "difference_low": None,
            "difference_high": None,
            "num_conversations": 0,
            "effective_sample_size": None,
            "max_weight_share": None,
            "share_in_range": None,
            "mean_ratio": None,
        },
    ],
}


def write(kind: str, out: Path) -> None:
    """An artifact of `kind` with its rows, a lineage, counts and metrics; no model in it."""
    stage = STAGES[MADE_BY[kind]]
    lineage = {"log 0": InputRecord(path="logs/2026-01.jsonl.gz", kind="file", digest="0" * 64)}
    with ArtifactWriter(
        out, kind=kind, stage=stage.name, config=stage.config(seed=7), inputs=lineage
    ) as writer:
        writer.write(ROWS[kind])
        writer.count("rows written by hand", len(ROWS[kind]))
        writer.metrics.update(share=0.5, converged=True, policy_version="3f6c")
        writer.write_json("notes.json", {"ü": [1, None, "🙂"]})


if __name__ == "__main__":
    for kind in ROWS:
        folder = FOLDER / f"{kind}-v{current_version(kind)}"
        if not folder.exists():
            write(kind, folder)
