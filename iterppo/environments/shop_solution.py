"""The truth about the shop: Q^π(s, a) of a scripted policy, exactly.

    suggestion -> sent intent:   adopted (verbatim, edited, influenced) it keeps its intent;
                                 rejected, blank or abstained, the business follows its habits
    Q(h, a)    = Σ_m P(m | a) [A(h, m) + γ (1 − A(h, m)) (1 − L(h, m)) V(h', reply)]
    V(h, c)    = Σ_a π(a | c, turn) Q(h, a)
    Q^π(s, a)  = Σ_h P(h | s) Q(h, a)

h is the customer's hidden state, A and L the probabilities of agreeing to the visit and of leaving,
h' and reply what follows otherwise, s what a log shows. Texts are only the surface of intents, so
the process is finite, and no conversation is longer than `max_turns`: the recursion ends.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from iterppo.environments.shop import (
    SETTINGS,
    ShopState,
    customer_move,
    recognise,
    reply_type,
)
from iterppo.environments.shop_belief import belief

Probabilities = Callable[[str, int], Mapping[str | None, float]]
"""A scripted policy: type of the customer's last message and number of the turn (from 1) ->
probability of each intent that it suggests; None: it abstains. `shop.SCRIPTS` has some."""


def sent_intents(suggestion: str | None) -> dict[str, float]:
    """Probability of each intent that the business sends when it is shown this text (None, or
    blank: nothing that it could send).

    >>> sent_intents("Which room would you like to renovate?")["ask_project"]  # 0.94 + 0.06 * 0.16
    0.9496
    """
    if suggestion is None or not suggestion.strip():
        return _sent(None)
    return _sent(recognise(suggestion))


class ShopSolution:
    """Q^π of the shop for one scripted policy and one γ. Values are kept: the next question of the
    same kind is cheaper."""

    def __init__(self, probabilities: Probabilities, *, gamma: float) -> None:
        """
        Args:
            probabilities: The policy π that is evaluated.
            gamma: Discount per turn, in [0, 1].

        Raises:
            ValueError: If gamma is outside [0, 1].
        """
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma is a discount in [0, 1], is {gamma}")
        self._probabilities = probabilities
        self._gamma = gamma
        self._sent_by_policy: dict[tuple[str, int], dict[str, float]] = {}
        self._values_of_sent: dict[tuple[ShopState, int], dict[str, float]] = {}
        self._value_of_reply: dict[tuple[ShopState, str, int], float] = {}

    def value(self, turns: Sequence[Mapping[str, Any]], action: str | None) -> float:
        """Q^π(s, a) of a state that a log shows: the posterior mean over hidden states.

        Args:
            turns: The conversation so far, as trajectory rows or as an assistant sees it:
                `customer` of every turn, `sent` of all but the last, whose own suggestion is not
                looked at.
            action: What is suggested now; None or blank: the assistant abstains.

        Returns:
            Expected discounted return, in units of the reward (1 where the visit is agreed).

        Raises:
            DataError: If no customer of the shop could have had this conversation.
        """
        return sum(
            probability * self.hidden_value(state, action)
            for state, probability in belief(turns).items()
        )

    def state_value(self, turns: Sequence[Mapping[str, Any]]) -> float:
        """V^π(s) of a state that a log shows: the mean of Q^π(s, a) over π.

        Raises:
            DataError: If no customer of the shop could have had this conversation.
        """
        believed = belief(turns)
        reply = reply_type(turns[-1]["customer"])
        return sum(
            probability * self._reply_value(_what_matters(state), reply, state.turn + 1)
            for state, probability in believed.items()
        )

    def hidden_value(self, state: ShopState, action: str | None) -> float:
        """Q^π(h, a) of a hidden state, such as a live shop's; 0 after the conversation's end."""
        if state.done:
            return 0.0
        return _mean(self._sent_values(_what_matters(state), state.turn + 1), sent_intents(action))

    def _sent_values(self, state: ShopState, turn: int) -> dict[str, float]:
        """The expected return when an intent is sent on this turn, of every intent."""
        values = self._values_of_sent.get((state, turn))
        if values is None:
            values = self._values_of_sent[state, turn] = {}
            for intent, (agrees, stays, after, reply) in _moves(state).items():
                values[intent] = agrees
                if turn < SETTINGS["max_turns"] and stays > 0:
                    following = self._reply_value(after, reply, turn + 1)
                    values[intent] += self._gamma * stays * following
        return values

    def _reply_value(self, state: ShopState, reply: str, turn: int) -> float:
        """V^π where the customer's last message, before this turn, was of type `reply`."""
        key = (state, reply, turn)
        if key not in self._value_of_reply:
            self._value_of_reply[key] = _mean(
                self._sent_values(state, turn), self._policy_sends(reply, turn)
            )
        return self._value_of_reply[key]

    def _policy_sends(self, reply: str, turn: int) -> dict[str, float]:
        """Probability of each intent that the business sends when π suggests."""
        key = (reply, turn)
        if key not in self._sent_by_policy:
            mixture = dict.fromkeys(SETTINGS["intents"], 0.0)
            for suggested, probability in self._probabilities(reply, turn).items():
                for intent, share in _sent(suggested).items():
                    mixture[intent] += probability * share
            self._sent_by_policy[key] = {intent: p for intent, p in mixture.items() if p > 0}
        return self._sent_by_policy[key]


def _sent(suggested: str | None) -> dict[str, float]:
    """Probability of each intent that is sent when this one is suggested.

    A text that cannot be edited within its intent is sent as it is, so that edits change nothing.
    """
    habits: dict[str, float] = SETTINGS["business"]["habits"]
    if suggested is None:
        return dict(habits)
    rejected: float = SETTINGS["intents"][suggested]["adoption"]["rejected"]
    sent = {intent: rejected * share for intent, share in habits.items()}
    sent[suggested] = sent.get(suggested, 0.0) + 1 - rejected
    return sent


def _mean(values: Mapping[str, float], probabilities: Mapping[str, float]) -> float:
    return sum(probability * values[key] for key, probability in probabilities.items())


class _Move(NamedTuple):
    """`CustomerMove`, with what the recursion needs of it."""

    agrees: float
    stays: float
    after: ShopState
    reply: str


@cache
def _moves(state: ShopState) -> dict[str, _Move]:
    """What may follow each intent; the same for every policy, hence computed once a process."""
    moves = {}
    for intent in SETTINGS["intents"]:
        move = customer_move(state, intent)
        stays = (1 - move.agrees) * (1 - move.leaves)
        moves[intent] = _Move(move.agrees, stays, _what_matters(move.after), move.reply)
    return moves


_LAST_CHANGE = max(rule.get("latest_turn", 0) for rule in SETTINGS["intents"].values())
"""After this turn one turn is like another, but for the very last."""


def _what_matters(state: ShopState) -> ShopState:
    """The part of the state that moves depend on, so that few are distinct: the project decides
    only the first interest, and the last intent matters where it had no effect."""
    return ShopState(
        "",
        state.budget,
        state.patience,
        state.interest,
        state.worked,
        "" if state.last in state.worked else state.last,
        min(state.turn, _LAST_CHANGE),
    )
