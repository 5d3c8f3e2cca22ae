"""The truth about the tutor: Q^π(s, a) of a scripted policy, and the optimum, both exactly.

    Q^π(h, a) = Σ P(solved | h, a) + γ Σ P(h', reply | h, a) V^π(h', reply)
    V^π(h, c) = Σ_a π(a | c, turn) Q^π(h, a)
    Q^π(s, a) = Σ_h P(h | s) Q^π(h, a)

    Q*(b, a)  = P(solved | b, a) + γ Σ_reply P(reply | b, a) max_a' Q*(b', a')

h is the learner's hidden state, s what a log shows, b = P(h | s) the belief, b' the belief after
the reply. A scripted policy looks at the last reply only, so the hidden state carries its value;
the best policy looks at everything, and everything that it can know is the belief. Texts are only
the surface of intents, and no lesson is longer than `max_turns`: both recursions end.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iterppo.environments.tutor import (
    INTENTS,
    TutorState,
    learner_moves,
    recognise,
    reply_type,
)
from iterppo.environments.tutor_belief import Belief, answered, belief

Probabilities = Callable[[str, int], Mapping[str | None, float]]
"""A scripted policy: type of the learner's last message and number of the turn (from 1) ->
probability of each intent that it suggests; None: it abstains. `tutor.SCRIPTS` has some."""


def sent_intent(suggestion: str | None) -> str:
    """The intent of what the learner reads where this is suggested.

    >>> sent_intent("Try 52 - 38."), sent_intent(None), sent_intent(" ")
    ('hard', 'wait', 'wait')
    """
    return recognise(suggestion) if suggestion and suggestion.strip() else "wait"


class TutorSolution:
    """Q^π of the tutor for one scripted policy and one γ. Values are kept: the next question of the
    same kind is cheaper."""

    def __init__(self, probabilities: Probabilities, *, gamma: float) -> None:
        """
        Args:
            probabilities: The policy π that is evaluated.
            gamma: Discount per turn, in [0, 1].

        Raises:
            ValueError: If gamma is outside [0, 1].
        """
        self._probabilities = probabilities
        self._gamma = _discount(gamma)
        self._policy: dict[tuple[str, int], dict[str, float]] = {}
        self._values: dict[tuple[TutorState, str], float] = {}

    def value(self, turns: Sequence[Mapping[str, Any]], action: str | None) -> float:
        """Q^π(s, a) of a state that a log shows: the posterior mean over hidden states.

        Args:
            turns: The lesson so far, as trajectory rows or as an assistant sees it: `customer` of
                every turn, `sent` of all but the last, whose own suggestion is not looked at.
            action: What is suggested now; None or blank: the tutor abstains.

        Returns:
            Expected discounted return, in units of the reward (1 where the exercise is solved).

        Raises:
            DataError: If no learner of the tutor could have had this lesson.
        """
        intent = sent_intent(action)
        return sum(p * self._value(state, intent) for state, p in belief(turns).items())

    def state_value(self, turns: Sequence[Mapping[str, Any]]) -> float:
        """V^π(s) of a state that a log shows: the mean of Q^π(s, a) over π.

        Raises:
            DataError: If no learner of the tutor could have had this lesson.
        """
        reply = reply_type(turns[-1]["customer"])
        return sum(p * self._reply_value(state, reply) for state, p in belief(turns).items())

    def advantage(self, turns: Sequence[Mapping[str, Any]], action: str | None) -> float:
        """A^π(s, a) = Q^π(s, a) − V^π(s).

        Raises:
            DataError: If no learner of the tutor could have had this lesson.
        """
        return self.value(turns, action) - self.state_value(turns)

    def hidden_value(self, state: TutorState, action: str | None) -> float:
        """Q^π(h, a) of a hidden state, such as a live tutor's; 0 after the lesson's end."""
        return 0.0 if state.done else self._value(state, sent_intent(action))

    def _value(self, state: TutorState, intent: str) -> float:
        key = (state, intent)
        if key not in self._values:
            value = 0.0
            for probability, reply, after in learner_moves(state, intent):
                if reply == "solves":
                    value += probability
                elif reply is not None:
                    value += self._gamma * probability * self._reply_value(after, reply)
            self._values[key] = value
        return self._values[key]

    def _reply_value(self, state: TutorState, reply: str) -> float:
        """V^π where the learner's last message was of type `reply`."""
        says = self._intents(reply, state.turn + 1)
        return sum(p * self._value(state, intent) for intent, p in says.items())

    def _intents(self, reply: str, turn: int) -> dict[str, float]:
        """Probability of each intent that the learner reads when π suggests."""
        key = (reply, turn)
        if key not in self._policy:
            mixture: dict[str, float] = {}
            for suggested, probability in self._probabilities(reply, turn).items():
                intent = "wait" if suggested is None else suggested
                mixture[intent] = mixture.get(intent, 0.0) + probability
            self._policy[key] = {intent: p for intent, p in mixture.items() if p > 0}
        return self._policy[key]


class TutorOptimum:
    """Q* of the tutor: what can be had by somebody who knows its law, but not its learner."""

    def __init__(self, *, gamma: float) -> None:
        """
        Args:
            gamma: Discount per turn, in [0, 1].

        Raises:
            ValueError: If gamma is outside [0, 1].
        """
        self._gamma = _discount(gamma)
        self._values: dict[tuple[tuple[TutorState, float], ...], float] = {}

    def value(self, turns: Sequence[Mapping[str, Any]], action: str | None) -> float:
        """Q*(s, a): say this now, and the best afterwards.

        Raises:
            DataError: If no learner of the tutor could have had this lesson.
        """
        return self._value(belief(turns), sent_intent(action))

    def state_value(self, turns: Sequence[Mapping[str, Any]]) -> float:
        """V*(s) = max_a Q*(s, a).

        Raises:
            DataError: If no learner of the tutor could have had this lesson.
        """
        return self._best(belief(turns))

    def best_intent(self, turns: Sequence[Mapping[str, Any]]) -> str:
        """argmax_a Q*(s, a), the first where several are best.

        Raises:
            DataError: If no learner of the tutor could have had this lesson.
        """
        believed = belief(turns)
        return max(INTENTS, key=lambda intent: self._value(believed, intent))

    def _best(self, believed: Belief) -> float:
        # Rounded, so that two ways to one belief meet in spite of the last bits of their sums.
        key = tuple(sorted((state, round(p, 9)) for state, p in believed.items()))
        if key not in self._values:
            self._values[key] = max(self._value(believed, intent) for intent in INTENTS)
        return self._values[key]

    def _value(self, believed: Belief, intent: str) -> float:
        value = 0.0
        for reply, states in answered(believed, intent).items():
            probability = sum(states.values())
            if reply == "solves":
                value += probability
            elif reply is not None:
                posterior = {state: p / probability for state, p in states.items()}
                value += self._gamma * probability * self._best(posterior)
        return value


def _discount(gamma: float) -> float:
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is a discount in [0, 1], is {gamma}")
    return gamma
