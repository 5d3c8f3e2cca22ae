"""The truth about the shop: Q^π(s, a) of a scripted policy, exactly.

    suggestion -> sent:  taken up, it keeps its intent; as it is it keeps its tone too, else it has
                         the tone of the business; rejected, blank or abstained, the business
                         follows its habits, in its own tone
    Q(h, a)    = Σ_m P(m | h, a) [A(h, m) + γ (1 − A(h, m)) (1 − L(h, m)) V(h', reply)]
    V(h, c)    = Σ_a π(a | c, turn) Q(h, a)
    Q^π(s, a)  = Σ_h P(h | s) Q(h, a)

h is the hidden state, of customer and business, A and L the probabilities of agreeing to the visit
and of leaving, h' and reply what follows otherwise, s what a log shows. Texts are only the surface
of intents and tones, so the process is finite, and no conversation is longer than `max_turns`: the
recursion ends. Policies that look at the whole conversation: `shop_optimum`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from iterppo.environments.shop_belief import Belief, belief
from iterppo.environments.shop_language import (
    PLAIN,
    SETTINGS,
    recognise,
    reply_type,
    tone_of,
)
from iterppo.environments.shop_law import (
    Act,
    ShopState,
    acceptance,
    affords,
    customer_move,
    habits,
    place,
    verbatim_share,
)
from iterppo.environments.shop_scripts import Script

Probabilities = Callable[[str, int], Mapping[Any, float]]
"""A scripted policy: type of the customer's last message and number of the turn (from 1) ->
probability of each `Act` that it suggests, or of each intent, meant in the plain tone; None: it
abstains. A `Script` of `shop.SCRIPTS` brings its own tones."""


def act_of(suggestion: str | None) -> Act | None:
    """What a suggestion is to the business; None: nothing that it could send."""
    if suggestion is None or not suggestion.strip():
        return None
    return Act(recognise(suggestion), tone_of(suggestion))


def sent_acts(act: Act | None, state: ShopState) -> dict[Act, float]:
    """Probability of each intent and tone that the business sends when it is shown this.

    >>> from iterppo.environments.shop_law import first_state
    >>> state = first_state("kitchen", "mid", "soon", "high", "casual")
    >>> sent = sent_acts(Act("ask_project", "casual"), state)
    >>> round(sent[Act("ask_project", "casual")], 4)  # 0.95 + 0.05 * 0.16
    0.958
    """
    return _sent(act, state.style, state.worked, state.turn + 1)


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
        self._probabilities = (
            probabilities.acts if isinstance(probabilities, Script) else probabilities
        )
        self._gamma = gamma
        self._values_of_sent: dict[tuple[ShopState, int], dict[str, tuple[float, float]]] = {}
        self._value_of_reply: dict[tuple[ShopState, str, int], float] = {}
        self._sent_by_policy: dict[tuple[Any, ...], list[_Share]] = {}

    def value(self, turns: Sequence[Mapping[str, Any]], action: str | None) -> float:
        """Q^π(s, a) of a state that a log shows: the posterior mean over hidden states.

        Args:
            turns: The conversation so far, as trajectory rows or as an assistant sees it:
                `customer` of every turn, `suggestion` and `sent` of all but the last, whose own
                suggestion is not looked at.
            action: What is suggested now; None or blank: the assistant abstains.

        Returns:
            Expected discounted return, in units of the reward (1 where the visit is agreed).

        Raises:
            DataError: If no customer of the shop could have had this conversation.
        """
        return sum(
            probability * self.hidden_value(state, action)
            for state, probability in _distinct(belief(turns)).items()
        )

    def state_value(self, turns: Sequence[Mapping[str, Any]]) -> float:
        """V^π(s) of a state that a log shows: the mean of Q^π(s, a) over π.

        Raises:
            DataError: If no customer of the shop could have had this conversation.
        """
        believed = _distinct(belief(turns))
        reply = reply_type(turns[-1]["customer"])
        return sum(
            probability * self._reply_value(_what_matters(state), reply, state.turn + 1)
            for state, probability in believed.items()
        )

    def hidden_value(self, state: ShopState, action: str | None) -> float:
        """Q^π(h, a) of a hidden state, such as a live shop's; 0 after the conversation's end."""
        if state.done:
            return 0.0
        values = self._sent_values(_what_matters(state), state.turn + 1)
        return _mean(values, _shares(sent_acts(act_of(action), state)))

    def _sent_values(self, state: ShopState, turn: int) -> dict[str, tuple[float, float]]:
        """Of every intent that is sent on this turn, the reward now and the expected return later,
        in the plain tone."""
        values = self._values_of_sent.get((state, turn))
        if values is None:
            values = self._values_of_sent[state, turn] = {}
            for intent, (agrees, stays, after, reply) in _moves(state).items():
                later = 0.0
                if turn < SETTINGS["max_turns"] and stays > 0:
                    later = self._gamma * stays * self._reply_value(after, reply, turn + 1)
                values[intent] = (agrees, later)
        return values

    def _reply_value(self, state: ShopState, reply: str, turn: int) -> float:
        """V^π where the customer's last message, before this turn, was of type `reply`."""
        key = (state, reply, turn)
        if key not in self._value_of_reply:
            self._value_of_reply[key] = _mean(
                self._sent_values(state, turn), self._policy_sends(reply, state, turn)
            )
        return self._value_of_reply[key]

    def _policy_sends(self, reply: str, state: ShopState, turn: int) -> "list[_Share]":
        """What the business sends when π suggests."""
        key = (reply, turn, state.style, state.worked)
        if key not in self._sent_by_policy:
            mixture: dict[Act, float] = {}
            for suggested, probability in self._probabilities(reply, turn).items():
                act = Act(suggested, PLAIN) if isinstance(suggested, str) else suggested
                for sent, share in _sent(act, state.style, state.worked, turn).items():
                    mixture[sent] = mixture.get(sent, 0.0) + probability * share
            self._sent_by_policy[key] = _shares(mixture)
        return self._sent_by_policy[key]


class _Share(NamedTuple):
    """An intent among those that may be sent."""

    intent: str
    probability: float
    warmth: float
    """The same, times what its tones do to staying."""


def _shares(sent: Mapping[Act, float]) -> list[_Share]:
    return [
        _Share(intent, sum(by_tone.values()), sum(p * _WARMTH[t] for t, p in by_tone.items()))
        for intent in SETTINGS["intents"]
        if (by_tone := {act.tone: p for act, p in sent.items() if act.intent == intent and p > 0})
    ]


@cache
def _sent(act: Act | None, style: str, worked: frozenset[str], turn: int) -> dict[Act, float]:
    own = {Act(intent, style): share for intent, share in habits(style).items()}
    if act is None:
        return own
    taken = acceptance(act, style, place(act.intent, worked, turn))
    verbatim = verbatim_share(act.intent)
    sent = {habit: (1 - taken) * share for habit, share in own.items()}
    for message, share in ((act, verbatim), (Act(act.intent, style), 1 - verbatim)):
        sent[message] = sent.get(message, 0.0) + taken * share
    return sent


def _mean(values: Mapping[str, tuple[float, float]], sent: Sequence[_Share]) -> float:
    total = 0.0
    for intent, probability, warmth in sent:
        now, later = values[intent]
        total += probability * now + warmth * later
    return total


_WARMTH = {
    tone: (1 - rule["cold"]) / (1 - SETTINGS["tones"][PLAIN]["cold"])
    for tone, rule in SETTINGS["tones"].items()
}
"""Staying in this tone, over staying in the plain one."""


class _Move(NamedTuple):
    """`CustomerMove` in the plain tone, with what the recursion needs of it."""

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


@cache
def _customer_like(project: str, budget: str) -> tuple[str, str]:
    """The first project and budget that matter in the same way: all that counts is the price."""
    customer = SETTINGS["customer"]
    return next(
        (one, other)
        for one in customer["project"]
        for other in customer["budget"]
        if affords(one, other) == affords(project, budget)
    )


def _distinct(believed: Belief) -> Belief:
    """The belief, with customers put together that differ in nothing that matters."""
    found: Belief = {}
    for state, probability in believed.items():
        project, budget = _customer_like(state.project, state.budget)
        alike = state._replace(project=project, budget=budget)
        found[alike] = found.get(alike, 0.0) + probability
    return found


def _what_matters(state: ShopState) -> ShopState:
    """The part of the state that moves depend on, so that few are distinct."""
    project, budget = _customer_like(state.project, state.budget)
    return state._replace(project=project, budget=budget, turn=min(state.turn, _LAST_CHANGE))
