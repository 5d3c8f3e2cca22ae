"""What a simulated deployment must offer: `reset` opens a conversation, `step` takes one turn.

Indices as in the paper: at turn i the customer has said c_i, the assistant suggests a_i, the
business sends m_i, and the observation carries what followed, c_{i+1} and o_{i+1}.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Observation:
    """What is seen after a turn; from `reset`, only the customer's first message c_1."""

    customer: str | None
    """c_{i+1}; None: the customer stopped responding, and the conversation is over. From `reset`
    None: the business writes first."""
    outcome: bool
    """o_{i+1}: has the customer stated the wanted behaviour. Then the conversation is over."""
    done: bool
    """The conversation is over, and `step` may not be called before the next `reset`."""
    sent: str | None = None
    """m_i, what the business sent after it had seen a_i; None from `reset`."""
    adoption: str | None = None
    """How m_i came from a_i: verbatim, edited, influenced, rejected or abstained."""


@runtime_checkable
class Environment(Protocol):
    """One customer and one business; text in, text out."""

    def reset(self, seed: int) -> Observation:
        """Begin the conversation that belongs to `seed`."""
        ...

    def step(self, suggestion: str | None) -> Observation:
        """Show `suggestion` to the business; None means that the assistant abstains."""
        ...


@runtime_checkable
class CloneableEnvironment(Environment, Protocol):
    """An environment that can be continued in more than one way."""

    def clone(self, seed: int | None = None) -> "Environment":
        """An independent copy at the same point of the conversation.

        With a seed its future is drawn anew: copies of different seeds part ways, and what an
        assistant cannot know of the past may be drawn anew too. Without one it goes on as this
        environment would.
        """
        ...
