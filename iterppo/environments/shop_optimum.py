"""The best that can be done in the shop, exactly: V*, Q* and Q^π over what a conversation shows.

    b = (visible, evidence)                      the sufficient statistic of shop_visible
    W(b, i, τ) = A(b, i) + γ Σ_c P(c | b, i, τ) V(b')                  i is sent in tone τ
    Q(b, a)    = Σ_z P(z | b) [ p_z v W(b ∧ a sent, a) + p_z (1 − v) W(b ∧ z, i, z)
                                + (1 − p_z) Σ_m habit_z(m) W(b ∧ z, m, z) ]
    V*(b) = max_a Q*(b, a),      V^π(b) = Q^π(b, π(b))

z is the style of the business, p_z the probability that it takes a up, v the share of that which
it sends as it is; "∧ z" because its own words give its style away. A is the probability of
agreement, c what the customer answers. No conversation is longer than `max_turns`, so one sweep
backwards over the turns solves it. Shapes: N visible states of a turn; S columns, one for each
style that is known, and one for each number of points while it is not.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iterppo.environments.episodes import Suggestion, TurnSoFar
from iterppo.environments.shop_language import (
    INTENTS,
    PLAIN,
    SETTINGS,
    TONES,
    UNKNOWN,
    sayings,
)
from iterppo.environments.shop_law import STYLES, Act, acceptance, habits, place, verbatim_share
from iterppo.environments.shop_layers import SENT, WORKED, Edges, Floats, Integers, Layer, layers
from iterppo.environments.shop_solution import act_of
from iterppo.environments.shop_visible import Evidence, Visible, read, tilt

ACTS: tuple[Act | None, ...] = (
    *(Act(intent, tone) for intent in INTENTS for tone in TONES),
    Act(UNKNOWN),
    None,
)
"""What a policy over intents and tones chooses from; None: it abstains."""

assert len(STYLES) == 2, "of two styles one number is the odds"
_MOST_POINTS = (SETTINGS["max_turns"] - 1) * max(abs(tilt(act)) for act in ACTS if act)
_COLUMNS = np.arange(len(STYLES) + 2 * _MOST_POINTS + 1)
_ZERO = len(STYLES) + _MOST_POINTS
_EVEN = 1e-9  # acts whose values differ by less are equally good


def _style_probability() -> Floats:
    """(2, S)"""
    styles = SETTINGS["business"]["styles"]
    share = np.array([[styles[style]["share"]] for style in STYLES])
    points = np.arange(-_MOST_POINTS, _MOST_POINTS + 1) / 2
    disliked = np.log(SETTINGS["business"]["disliked"])
    weights = share * np.exp(disliked * np.stack([points, -points]))
    return np.concatenate([np.eye(len(STYLES)), weights / weights.sum(axis=0)], axis=1)


_STYLE_2S = _style_probability()


def column(evidence: Evidence) -> int:
    """Where this evidence of the style stands among the columns."""
    if evidence.style is not None:
        return STYLES.index(evidence.style)
    return _ZERO + evidence.points


def _shifted(act: Act) -> Integers:
    """(S,): the column after this act was sent as it is."""
    points = np.clip(_COLUMNS + tilt(act), len(STYLES), _COLUMNS[-1])
    return np.where(len(STYLES) > _COLUMNS, _COLUMNS, points)


def _warmth(tone: str) -> float:
    """Factor of staying, by the tone of what is sent."""
    return 1.0 - float(SETTINGS["tones"][tone]["cold"])


class _Turn:
    """Q of every act in some visible states of a turn, given the values of the next turn."""

    def __init__(
        self, layer: Layer, following_NS: Floats | None, *, gamma: float, rows: Integers | None
    ) -> None:
        self._layer = layer
        self._rows = np.arange(len(layer.codes)) if rows is None else rows
        self._later = {
            intent: gamma / _warmth(PLAIN) * _mean_after(edges, following_NS, self._rows)
            for intent, edges in ((intent, layer.edges.get(intent)) for intent in SENT)
        }  # asked in the plain tone; `sent` gives it another
        self._agrees_N = layer.agrees[self._rows]
        self._worked_N = layer.worked[self._rows]
        self._left_alone_2N = np.stack(
            [
                sum(
                    share * self.sent(intent, style)[:, number]
                    for intent, share in habits(style).items()
                )
                for number, style in enumerate(STYLES)
            ]
        )

    def sent(self, intent: str, tone: str) -> Floats:
        """(N, S): W, before the evidence is updated."""
        agrees_N1 = self._agrees_N[:, None] * (intent == "offer_visit")
        return agrees_N1 + self._later[intent] * _warmth(tone)

    def adopted(self, act: Act) -> Floats:
        """(N, S): Q where every suggestion is sent as it is."""
        return self.sent(*act)[:, _shifted(act)]

    def suggested(self, act: Act | None) -> Floats:
        """(N, S): Q in the real shop."""
        left_alone_NS = np.einsum("zs,zn->ns", _STYLE_2S, self._left_alone_2N)
        if act is None:
            return left_alone_NS
        verbatim = verbatim_share(act.intent)
        as_it_is_NS = self.adopted(act)
        value_NS = left_alone_NS
        for number, style in enumerate(STYLES):
            taken = [
                acceptance(act, style, place(act.intent, worked, self._layer.turn))
                for worked in WORKED
            ]
            taken_N = np.array(taken)[self._worked_N]
            own_N = self.sent(act.intent, style)[:, number]
            taken_NS = taken_N[:, None] * _STYLE_2S[number]
            better_N = (1 - verbatim) * own_N - self._left_alone_2N[number]
            value_NS = value_NS + taken_NS * (verbatim * as_it_is_NS + better_N[:, None])
        return value_NS


def _mean_after(edges: Edges | None, following_NS: Floats | None, rows: Integers) -> Floats:
    """(N, S): Σ_c P(c) V(b')."""
    if edges is None or following_NS is None:
        return np.zeros((len(rows), len(_COLUMNS)))
    if len(rows) == 1:
        some = slice(edges.starts[rows[0]], edges.starts[rows[0] + 1])
        mean: Floats = edges.probability[some] @ following_NS[edges.target[some]]
        return mean[None, :]
    weighted = edges.probability[:, None] * following_NS[edges.target]
    summed: Floats = np.add.reduceat(weighted, edges.starts[:-1], axis=0)
    return summed


class ShopPlan:
    """A policy over intents and tones that decides by all that a conversation shows, and its exact
    values."""

    def __init__(self, choices: Sequence[NDArray[np.int8]], *, gamma: float) -> None:
        """
        Args:
            choices: For each turn, (N, S) indices into `ACTS`.
            gamma: Discount per turn of the values, in [0, 1].
        """
        self.gamma = gamma
        self._choices = choices
        self._values = _evaluate(choices, gamma)

    @classmethod
    def of(
        cls, policy: Callable[[int, Visible, Evidence], Act | None], *, gamma: float
    ) -> "ShopPlan":
        """The plan of any such policy.

        Args:
            policy: Turn (from 1), what is known of the customer, evidence of the style -> what it
                suggests; None: it abstains. It is asked about all that can be seen, and more.
            gamma: Discount per turn of the values, in [0, 1].
        """
        known = [Evidence(style) for style in STYLES]
        known += [Evidence(points=n) for n in range(-_MOST_POINTS, _MOST_POINTS + 1)]
        number = {act: n for n, act in enumerate(ACTS)}
        choices = []
        for layer in layers():
            seen = [layer.visible(row) for row in range(len(layer.codes))]
            rows = [[number[policy(layer.turn, v, e)] for e in known] for v in seen]
            choices.append(np.array(rows, dtype=np.int8))
        return cls(choices, gamma=gamma)

    @property
    def start_value(self) -> float:
        """V^π of a conversation of which nothing is known; with γ = 1 the success rate."""
        return float(self._values[0][0, _ZERO])

    def value(self, turns: Sequence[Mapping[str, Any]], action: str | None) -> float:
        """Q^π(s, a) of a state that a log shows, of any text.

        Args:
            turns: The conversation so far, as trajectory rows or as an assistant sees it:
                `customer` of every turn, `suggestion` and `sent` of all but the last.
            action: What is suggested now; None or blank: the assistant abstains.

        Returns:
            Expected discounted return, in units of the reward (1 where the visit is agreed).

        Raises:
            DataError: If no customer of the shop could have had this conversation.
        """
        visible, evidence = read(turns)
        return self.act_value(len(turns), visible, evidence, act_of(action))

    def act_value(self, turn: int, visible: Visible, evidence: Evidence, act: Act | None) -> float:
        """Q^π(b, a)."""
        layer = layers()[turn - 1]
        following = self._values[turn] if turn < len(self._values) else None
        rows = np.array([layer.find(visible)])
        here = _Turn(layer, following, gamma=self.gamma, rows=rows)
        return float(here.suggested(act)[0, column(evidence)])

    def state_value(self, turns: Sequence[Mapping[str, Any]]) -> float:
        """V^π(s) of a state that a log shows."""
        visible, evidence = read(turns)
        row = layers()[len(turns) - 1].find(visible)
        return float(self._values[len(turns) - 1][row, column(evidence)])

    def choose(self, turn: int, visible: Visible, evidence: Evidence) -> Act | None:
        """π(b)."""
        row = layers()[turn - 1].find(visible)
        return ACTS[int(self._choices[turn - 1][row, column(evidence)])]

    def __call__(self, turns: Sequence[Mapping[str, Any]]) -> Act | None:
        """What it suggests in a state that a log shows."""
        return self.choose(len(turns), *read(turns))

    def under(self, gamma: float) -> "ShopPlan":
        """The same policy, valued with another discount."""
        return self if gamma == self.gamma else ShopPlan(self._choices, gamma=gamma)


@cache
def optimum(gamma: float = 1.0) -> ShopPlan:
    """The best policy, and V*, Q*.

    Raises:
        ValueError: If gamma is outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is a discount in [0, 1], is {gamma}")
    return ShopPlan(_greedy(gamma, _Turn.suggested), gamma=gamma)


def optimal_success() -> float:
    """Probability of the outcome under the best policy: what no assistant can exceed."""
    return optimum().start_value


@cache
def myopic() -> ShopPlan:
    """The best policy for γ = 0: it takes the best chance of an immediate outcome. Of acts with
    equal chances it takes the one that is best in the long run."""
    return ShopPlan(_greedy(0.0, _Turn.suggested, ties=optimum()), gamma=1.0)


@cache
def acceptance_blind() -> ShopPlan:
    """The best policy for a business that sends every suggestion as it is, played in the real one.
    Of acts that are equally good to it, it takes the one that is best in the real shop."""
    return ShopPlan(_greedy(1.0, _adopted, ties=optimum()), gamma=1.0)


def _adopted(turn: _Turn, act: Act | None) -> Floats:
    """Silence is no choice where everything is sent."""
    if act is None:
        return np.full((len(turn._rows), len(_COLUMNS)), -1.0)
    return turn.adopted(act)


def _greedy(gamma: float, value: Any, *, ties: ShopPlan | None = None) -> list[NDArray[np.int8]]:
    """Indices into `ACTS` of the best act, turn by turn from the last one."""
    choices: list[NDArray[np.int8]] = []
    following: Floats | None = None
    later: Floats | None = None
    for layer in reversed(layers()):
        turn = _Turn(layer, following, gamma=gamma, rows=None)
        real = None
        if ties is not None:
            later = ties._values[layer.turn] if layer.turn < len(ties._values) else None
            real = _Turn(layer, later, gamma=ties.gamma, rows=None)
        best = np.full((len(layer.codes), len(_COLUMNS)), -np.inf)
        second = np.full_like(best, -np.inf)
        choice = np.zeros(best.shape, dtype=np.int8)
        for number, act in enumerate(ACTS):
            found = value(turn, act)
            other = found if real is None else real.suggested(act)
            better = (found > best + _EVEN) | ((found > best - _EVEN) & (other > second))
            choice[better] = number
            second = np.where(better, other, second)
            best = np.where(better, found, best)
        choices.append(choice)
        following = best
    return choices[::-1]


def _evaluate(choices: Sequence[NDArray[np.int8]], gamma: float) -> list[Floats]:
    """V^π of every turn, (N, S) each."""
    values: list[Floats] = []
    following: Floats | None = None
    for layer, choice in zip(reversed(layers()), reversed(choices), strict=True):
        turn = _Turn(layer, following, gamma=gamma, rows=None)
        value = np.zeros(choice.shape)
        for number in np.unique(choice):
            chosen = choice == number
            value[chosen] = turn.suggested(ACTS[number])[chosen]
        values.append(value)
        following = value
    return values[::-1]


def act_values(shares: Sequence[Floats], *, gamma: float) -> tuple[float, list[Floats]]:
    """Exact values of a policy that draws what it suggests.

        Q^π(b, a) as in this module's head, with V^π(b) = Σ_a π(a | b) Q^π(b, a)

    Args:
        shares: For each turn, (N, S, A) probabilities of `ACTS`, or (1, 1, A) where the state does
            not matter.
        gamma: Discount per turn, in [0, 1].

    Returns:
        V^π of a conversation of which nothing is known, and for each turn (N, S, A) values.
    """
    values: list[Floats] = []
    following: Floats | None = None
    for layer, share in zip(reversed(layers()), reversed(shares), strict=True):
        turn = _Turn(layer, following, gamma=gamma, rows=None)
        value_NSA = np.stack([turn.suggested(act) for act in ACTS], axis=-1)
        following = (share * value_NSA).sum(axis=-1)
        values.append(value_NSA)
    assert following is not None, "there is a turn"
    return float(following[0, _ZERO]), values[::-1]


class OptimalAssistant:
    """The optimum, or another plan, in words: an assistant of episodes."""

    def __init__(self, seed: int = 0, plan: ShopPlan | None = None, version: str = "optimal"):
        """
        Args:
            seed: Of the wording.
            plan: None: the optimum for γ = 1.
            version: Name of the policy in logs.
        """
        self.version = version
        self._plan = plan or optimum()
        self._random = Random(f"plan-{seed}")

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        return [Suggestion(self._words(self._plan(turns)), None) for turns in conversations]

    def _words(self, act: Act | None) -> str | None:
        if act is None:
            return None
        return self._random.choice(sayings(*act) or ("...",))
