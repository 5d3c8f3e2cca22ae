"""A log whose every probability is known, of a tiny policy that says one of five words, and another
policy that says yes more often."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from iterppo.artifact import ArtifactWriter, InputRecord
from iterppo.config import (
    IngestConfig,
    InitConfig,
    ReturnsConfig,
)
from iterppo.contracts import ROWS
from iterppo.lm.likelihood import action_logprobs
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.rendering import decisions

QUESTIONS = ("Is it done?", "Hello!", "And then?")
WORDS = ("yes", "no", "maybe", "soon", "later")
NUM = 240


class Setting(NamedTuple):
    """A log of `old`, and `new`, which says yes more often."""

    folder: Path
    old: Policy
    new: Policy
    rows: list[list[dict[str, Any]]]

    def paths(self) -> dict[str, Path]:
        names = {"trajectories", "returns", "policy", "candidate"}
        return {name: self.folder / name for name in names}


def write(
    out: Path,
    kind: str,
    config: Any,
    rows: list[dict[str, Any]] = [],  # noqa: B006, nobody changes it
    *,
    inputs: dict[str, InputRecord] | None = None,
    **metrics: str,
) -> ArtifactWriter:
    writer = ArtifactWriter(out, kind=kind, stage="test", config=config, inputs=inputs or {})
    with writer:
        writer.write(rows)
        writer.metrics.update(metrics)
    return writer


def write_policy(out: Path, folder: Path) -> Policy:
    with ArtifactWriter(out, kind="policy", stage="init", config=InitConfig(), inputs={}) as writer:
        (writer.folder / "model").mkdir()
        for file in folder.iterdir():
            (writer.folder / "model" / file.name).write_bytes(file.read_bytes())
    return load_policy(out)


def turn(name: str, number: int, policy: Policy, **values: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {field: None for field in ROWS["trajectories"].model_fields}
    return empty | {
        "conversation_id": name,
        "turn": number,
        "outcome_before": False,
        "reward": 0.0,
        "censored": False,
        "policy_version": policy.settings.version,
        "split": "heldout" if int(name) % 2 else "train",
        **values,
    }


def held(policy: Policy) -> list[list[dict[str, Any]]]:
    """Conversations of up to two turns; yes is what the customer wants to hear. Words are drawn,
    not tokens: what a policy of so little training says besides is left out."""
    generator = np.random.default_rng(1)
    found: list[list[dict[str, Any]]] = [[] for _ in range(NUM)]
    for number in (1, 2):
        going = [n for n in range(NUM) if not found[n] or not found[n][-1]["done"]]
        for n in going:
            customer = QUESTIONS[n % 3] if number == 1 else "Hello!"
            found[n].append(
                turn(str(n), number, policy, customer=customer, adoption="not_shown", done=False)
            )
        states = [
            list(decisions(found[n], system_prompt=policy.settings.system_prompt))[-1].state
            for n in going
        ]
        pairs = [(state, word) for state in states for word in WORDS]
        logprobs = np.reshape(action_logprobs(policy, pairs), (len(states), len(WORDS)))
        for n, logprob in zip(going, logprobs, strict=True):
            k = generator.choice(len(WORDS), p=np.exp(logprob) / np.exp(logprob).sum())
            found[n][-1] |= {
                "suggestion": WORDS[k],
                "sent": WORDS[k],
                "adoption": "verbatim",
                "suggestion_logprob": float(logprob[k]),
                "reward": float(WORDS[k] == "yes"),
                "done": WORDS[k] == "yes" or number == 2,
            }
    return found


def exact_value(policy: Policy) -> float:
    """How often it says yes on either turn."""

    def says(rows: list[dict[str, Any]]) -> Any:
        state = list(decisions(rows, system_prompt=policy.settings.system_prompt))[-1].state
        p = np.exp(action_logprobs(policy, [(state, word) for word in WORDS]))
        return p / p.sum()

    values = []
    for question in QUESTIONS:
        asked = turn("0", 1, policy, customer=question, adoption="not_shown")
        first = says([asked])
        values.append(first[0])
        for p, word in zip(first[1:], WORDS[1:], strict=True):
            answered = asked | {"suggestion": word, "sent": word, "adoption": "verbatim"}
            then = turn("0", 2, policy, customer="Hello!", adoption="not_shown")
            values[-1] += p * says([answered, then])[0]
    return float(np.mean(values))


def set_up(folder: Path, make_policy: Callable[..., Path], pairs: Any) -> Setting:
    """The log and the policies, as artifacts in the folder."""
    eager = (*pairs, *((asked, "yes") for asked, answer in pairs if answer == "no"))
    old = write_policy(folder / "policy", make_policy(steps=40))
    new = write_policy(folder / "candidate", make_policy(steps=40, taught=eager))
    rows = held(old)
    write(
        folder / "trajectories", "trajectories", IngestConfig(), [r for each in rows for r in each]
    )
    paid = [
        {
            "conversation_id": row["conversation_id"],
            "turn": row["turn"],
            "reward": row["reward"],
            "return": sum(later["reward"] for later in each[index:]),
            "weight": 1.0,
            "horizon": len(each) - index,
        }
        for each in rows
        for index, row in enumerate(each)
    ]
    write(folder / "returns", "returns", ReturnsConfig(gamma=1.0), paid)
    return Setting(folder, old, new, rows)


def random_q(folder: Path, *, members: int = 3) -> QFunction:
    settings = QSettings(loss="bce", max_tokens=128, members=members)
    q = QFunction.from_policy(folder / "model", settings)
    torch.manual_seed(0)
    for weight in (q.heads.members.weight, q.heads.state.weight):
        torch.nn.init.normal_(weight, std=0.5)
    return q
