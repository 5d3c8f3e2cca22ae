"""A log whose returns are known to depend on what was said."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iterppo.lm.q_function import QFunction
from iterppo.lm.q_log import Conversation, conversations_of

GAMMA = 0.9
ANSWERS = ("yes", "no", "maybe")


def yes_and_no(
    q: QFunction,
    number: int,
    *,
    row: Callable[..., dict[str, Any]],
    system: str,
    censored: Sequence[int] = (),
    silent: Mapping[int, int] | None = None,
    **columns: Callable[[int], Any],
) -> list[Conversation]:
    """Conversations that end with the outcome where their last suggestion was `yes`; `columns` of
    their rows, by the conversation's number."""
    pairs = []
    for n in range(number):
        turns = [
            row(f"Hello {n % 7}", ANSWERS[(n + t) % 3], f"Sent {t}", "edited")
            for t in range(1 + n % 3)
        ]
        outcome = float(turns[-1]["suggestion"] == "yes" and n not in censored)
        if silent and n in silent:  # the business wrote without one
            turns[silent[n]] |= {"suggestion": None, "adoption": "not_shown"}
        pairs.append(
            (
                [
                    turn
                    | {
                        "conversation_id": f"c{n}",
                        "turn": t,
                        "split": "train",
                        "censored": n in censored,
                        "customer_time": None,
                        "sent_time": None,
                    }
                    | {name: made(n) for name, made in columns.items()}
                    for t, turn in enumerate(turns, start=1)
                ],
                [
                    {
                        "reward": outcome if t == len(turns) else 0.0,
                        "return": None if n in censored else outcome * GAMMA ** (len(turns) - t),
                        "weight": 1.0,
                    }
                    for t in range(1, len(turns) + 1)
                ],
            )
        )
    return list(
        conversations_of(
            pairs, q.renderer, system_prompt=system, max_tokens=128, fate_known_until=None
        )
    )
