"""Everything that can be seen of the shop's customer on each turn, and what leads where.

    visible states of turn t ── intent i, answer c ──→ visible states of turn t + 1

A visible state is one integer here, so that numpy sorts and finds it. Rules come from
`customer_move` alone: for each (worked, interest) and intent every hidden customer is asked, and
those who answer alike are one edge. Shapes: N visible states of a turn, E edges of an intent, H
hidden customers.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iterppo.environments.shop_language import INTENTS, SETTINGS, UNKNOWN
from iterppo.environments.shop_law import customer_move
from iterppo.environments.shop_visible import (
    PAIRS,
    PATIENCES,
    URGENCIES,
    Told,
    Visible,
    prior_of_pair,
    representative,
    told,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SENT: tuple[str, ...] = (*INTENTS, UNKNOWN)
"""What may be sent."""

_WORKS = ("ask_project", "ask_budget", "show_examples", "quote_price", "small_talk")
WORKED: tuple[frozenset[str], ...] = tuple(
    frozenset(intent for n, intent in enumerate(_WORKS) if number >> n & 1)
    for number in range(1 << len(_WORKS))
)
"""Sets of intents that had their effect, by number."""

_HIDDEN = tuple(product(PAIRS, URGENCIES, PATIENCES))
_LAST_CHANGE = max(rule.get("latest_turn", 0) for rule in SETTINGS["intents"].values())
"""After this turn one turn is like another, but for the very last."""
_NUM_ANNOYANCES = SETTINGS["max_turns"]
_NUM_URGENCIES = len(URGENCIES) + 1  # 0: not told
_NUM_INTERESTS = SETTINGS["max_interest"] + 1


class Edges(NamedTuple):
    """What follows an intent that is sent, sorted by where it starts."""

    starts: Integers
    """(N + 1,): the edges of state n are those from starts[n] to starts[n + 1]."""
    probability: Floats
    """(E,): that this is the answer, the tone's factor left out."""
    target: Integers
    """(E,): index of the visible state of the next turn."""


class Layer(NamedTuple):
    """One turn."""

    turn: int
    codes: Integers
    """(N,): visible states, sorted."""
    worked: Integers
    """(N,): number of the set of intents that had their effect."""
    agrees: Floats
    """(N,): probability of agreement when the visit is offered."""
    edges: dict[str, Edges]
    """By intent; none on the last turn."""

    def find(self, visible: Visible) -> int:
        """Where a visible state stands.

        Raises:
            ValueError: If nothing looks like this on this turn.
        """
        code = encode(visible)
        found = int(np.searchsorted(self.codes, code))
        if found == len(self.codes) or self.codes[found] != code:
            raise ValueError(f"nothing in the shop looks like {visible} on turn {self.turn}")
        return found

    def visible(self, index: int) -> Visible:
        """The state that stands there."""
        return decode(int(self.codes[index]))


def encode(visible: Visible) -> int:
    """One integer for a visible state."""
    worked = WORKED.index(visible.worked)
    pairs = sum(1 << n for n, pair in enumerate(PAIRS) if pair in visible.pairs)
    urgency = 0 if visible.urgency is None else 1 + URGENCIES.index(visible.urgency)
    code = worked * _NUM_INTERESTS + visible.interest
    return ((code * _NUM_ANNOYANCES + visible.annoyances) * _NUM_URGENCIES + urgency) * (
        1 << len(PAIRS)
    ) + pairs


def decode(code: int) -> Visible:
    """The inverse of `encode`."""
    code, pairs = divmod(code, 1 << len(PAIRS))
    code, urgency = divmod(code, _NUM_URGENCIES)
    code, annoyances = divmod(code, _NUM_ANNOYANCES)
    worked, interest = divmod(code, _NUM_INTERESTS)
    return Visible(
        WORKED[worked],
        interest,
        annoyances,
        frozenset(pair for n, pair in enumerate(PAIRS) if pairs >> n & 1),
        None if urgency == 0 else URGENCIES[urgency - 1],
    )


@cache
def layers() -> tuple[Layer, ...]:
    """All turns. The same for every policy and every γ, hence computed once a process."""
    found = []
    codes = np.array([encode(Visible())], dtype=np.int64)
    for turn in range(1, SETTINGS["max_turns"] + 1):
        worked, interest = np.divmod(_head(codes), _NUM_INTERESTS)
        agrees = np.array(SETTINGS["customer"]["agrees"])[interest]
        if turn == SETTINGS["max_turns"]:
            found.append(Layer(turn, codes, worked, agrees, {}))
            break
        raw = {intent: _edges(codes, turn, intent) for intent in SENT}
        following = np.unique(np.concatenate([codes_after for _, _, codes_after in raw.values()]))
        edges = {}
        for intent, (rows, probability, codes_after) in raw.items():
            order = np.argsort(rows, kind="stable")
            starts = np.searchsorted(rows[order], np.arange(len(codes) + 1))
            assert (np.diff(starts) > 0).all(), "somebody answers whatever is sent"
            target = np.searchsorted(following, codes_after[order])
            edges[intent] = Edges(starts, probability[order], target)
        found.append(Layer(turn, codes, worked, agrees, edges))
        codes = following
    return tuple(found)


def _head(codes: Integers) -> Integers:
    """(worked, interest), which every rule depends on."""
    return codes // ((1 << len(PAIRS)) * _NUM_URGENCIES * _NUM_ANNOYANCES)


def _edges(codes: Integers, turn: int, intent: str) -> tuple[Integers, Floats, Integers]:
    """Rows, probabilities and codes afterwards of all that may follow."""
    posterior = _posterior(codes, turn)
    heads = _head(codes)
    order = np.argsort(heads, kind="stable")
    heads_found, first = np.unique(heads[order], return_index=True)
    rows_of = np.split(order, first[1:])
    made: list[tuple[Integers, Floats, Integers]] = []
    for rows in rows_of:
        seen = decode(int(codes[rows[0]]))
        for edge in _alike(seen.worked, seen.interest, min(turn, _LAST_CHANGE + 1), intent):
            probability = posterior[rows] @ edge.stays
            possible = probability > 0
            kept = rows[possible]
            made.append((kept, probability[possible], edge.codes_after(codes[kept])))
    assert len(heads_found) == len(rows_of)
    rows, probability, after = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return rows, probability, after


class _Answer(NamedTuple):
    """Hidden customers who answer alike."""

    stays: Floats
    """(H,): probability of this answer."""
    worked_interest: int
    annoyed: bool
    pairs: int
    """Mask of those that answer so."""
    urgency: int
    """0: not told."""

    def codes_after(self, codes: Integers) -> Integers:
        rest, pairs = np.divmod(codes, 1 << len(PAIRS))
        rest, urgency = np.divmod(rest, _NUM_URGENCIES)
        annoyances = rest % _NUM_ANNOYANCES + self.annoyed
        urgency = np.where(urgency == 0, self.urgency, urgency)
        code = (self.worked_interest * _NUM_ANNOYANCES + annoyances) * _NUM_URGENCIES + urgency
        found: Integers = code * (1 << len(PAIRS)) + (pairs & self.pairs)
        return found


@cache
def _alike(worked: frozenset[str], interest: int, turn: int, intent: str) -> list[_Answer]:
    """The hidden customers behind (worked, interest), by what they answer."""
    seen = Visible(worked, interest)
    found = []
    groups: dict[Told, dict[int, float]] = {}
    moves = {}
    for number, (pair, urgency, patience) in enumerate(_HIDDEN):
        state = representative(seen, turn, pair, urgency, patience)
        move = customer_move(state, intent)
        answer = told(move.reply, state)
        moves[answer] = move
        stays = (1 - move.agrees) * (1 - move.leaves)
        groups.setdefault(answer, {})[number] = stays
    for answer, members in groups.items():
        move = moves[answer]
        stays_H = np.zeros(len(_HIDDEN))
        stays_H[list(members)] = list(members.values())
        head = encode(Visible(move.after.worked, move.after.interest, 0, frozenset()))
        found.append(
            _Answer(
                stays_H,
                int(_head(np.array([head]))[0]),
                move.annoyed,
                sum(1 << PAIRS.index(pair) for pair in {_HIDDEN[number][0] for number in members}),
                0 if answer.urgency is None else 1 + URGENCIES.index(answer.urgency),
            )
        )
    return found


def _posterior(codes: Integers, turn: int) -> Floats:
    """(N, H): P(hidden customer | visible state on this turn).

    The traits are independent given what is seen, since the probability of staying is a product.
    """
    customer = SETTINGS["customer"]
    rest, pairs = np.divmod(codes, 1 << len(PAIRS))
    rest, urgency = np.divmod(rest, _NUM_URGENCIES)
    annoyances = rest % _NUM_ANNOYANCES
    allowed = (pairs[:, None] >> np.arange(len(PAIRS))) & 1
    pair_NP = _normalised(allowed * np.array([prior_of_pair(pair) for pair in PAIRS]))
    stayed = [customer["urgency"][u] * (1 - customer["hurry"][u]) ** (turn - 1) for u in URGENCIES]
    told_NU = urgency[:, None] == np.arange(1, _NUM_URGENCIES)
    urgency_NU = np.where(urgency[:, None] == 0, _normalised(np.array([stayed])), told_NU)
    survived = np.array([1 - customer["annoyed"][p] for p in PATIENCES])
    prior = np.array([customer["patience"][p] for p in PATIENCES])
    patience_NQ = _normalised(prior * survived ** annoyances[:, None])
    joint = pair_NP[:, :, None, None] * urgency_NU[:, None, :, None] * patience_NQ[:, None, None]
    return joint.reshape(len(codes), len(_HIDDEN))


def _normalised(weights: Floats) -> Floats:
    return weights / weights.sum(axis=-1, keepdims=True)
