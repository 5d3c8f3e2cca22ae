"""Holding conversations: an assistant in an environment, many episodes together, as lines of a
log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from iterppo.contracts.trajectories import ADOPTIONS
from iterppo.environments.plain import is_text, is_truth, summary
from iterppo.environments.protocol import Environment, Observation
from iterppo.errors import IterPPOError, UsageError
from iterppo.logs.splits import unit_hash
from iterppo.logs.suggestions import Adoptions, derive_adoptions
from iterppo.personas import Persona, persona_at, probability_of

_FATES = [fate for fate in ADOPTIONS if fate != "not_shown"]

TurnSoFar = dict[str, Any]
"""`customer`, `suggestion`, `adoption`, `sent` of a turn, as in a trajectories row; the last one
waits for its suggestion (`adoption` is not_shown and `sent` null). In a conversation that is held
under a persona, `persona` as well: its name."""


@dataclass(frozen=True)
class Suggestion:
    """What an assistant suggests; text None: it abstains."""

    text: str | None
    logprob: float | None
    """log π(a | s), in nats, under the persona if there is one; None where the assistant does not
    know it."""


class Assistant(Protocol):
    """Anything that suggests."""

    version: str

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]: ...


@dataclass
class Episode:
    """A conversation that is being held."""

    number: int
    environment: Environment
    observation: Observation
    turns: list[TurnSoFar] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    persona: str | None = None

    def waiting(self) -> list[TurnSoFar]:
        """What an assistant is shown."""
        open_turn: TurnSoFar = {
            "customer": self.observation.customer,
            "suggestion": None,
            "adoption": "not_shown",
            "sent": None,
        }
        turns = [*self.turns, open_turn]
        if self.persona is None:
            return turns
        return [{**turn, "persona": self.persona} for turn in turns]

    def advance(self, suggestion: Suggestion) -> None:
        """Take a turn, and note what happened on it."""
        customer = self.observation.customer
        after = observed(self.environment, "step", suggestion.text)
        adoption = after.adoption or ("abstained" if suggestion.text is None else None)
        self.turns.append(
            {
                "customer": customer,
                "suggestion": suggestion.text,
                "adoption": adoption or _derived(suggestion.text, after.sent),
                "sent": after.sent,
            }
        )
        self.messages.append(
            {
                "role": "business",
                "content": after.sent or "",
                "suggestion": suggestion.text,
                "adoption": adoption,
                "suggestion_logprob": suggestion.logprob,
            }
        )
        self.observation = after
        if after.customer is not None:
            self.messages.append({"role": "customer", "content": after.customer})
        if after.outcome:
            self.messages[-1]["outcome"] = 1


def observed(environment: Environment, method: str, argument: Any) -> Observation:
    """What `reset` or `step` gives, whoever wrote it. A conversation is over with its outcome and,
    behind the first message, with a customer who says nothing, whatever `done` says.

    Raises:
        UsageError: If it fails, or gives something that no log can hold.
    """
    place = f"environment {type(environment).__name__}: {method}"
    try:
        seen = getattr(environment, method)(argument)
    except IterPPOError:
        raise
    except Exception as error:
        raise UsageError(f"{place} failed ({summary(error)})") from error
    if not isinstance(seen, Observation):
        raise UsageError(f"{place} returned a {type(seen).__name__}; return an Observation")
    for name, fits, wanted in (
        ("customer", seen.customer is None or is_text(seen.customer), "a text or None"),
        ("sent", seen.sent is None or is_text(seen.sent), "a text or None"),
        ("outcome", is_truth(seen.outcome), "a truth value"),
        ("done", is_truth(seen.done), "a truth value"),
        ("adoption", seen.adoption in (None, *_FATES), f"None or one of {', '.join(_FATES)}"),
    ):
        if not fits:
            raise UsageError(f"{place}: {name} is {getattr(seen, name)!r}; give {wanted}")
    silent = method == "step" and not (seen.customer or "").strip()
    return replace(
        seen,
        customer=None if silent else seen.customer,
        outcome=bool(seen.outcome),
        done=bool(seen.done or seen.outcome or silent),
    )


def _derived(suggestion: str | None, sent: str | None) -> str:
    """What became of a suggestion, where the environment does not say: as `ingest` will see it, so
    that the assistant meets the states that its log is read as."""
    said, went_out = (pa.array([text], pa.string()) for text in (suggestion, sent))
    nothing, knows = pa.nulls(1, pa.string()), np.ones(1, dtype=bool)
    return str(derive_adoptions(said, went_out, nothing, knows, Adoptions()).adoption[0])


def hold_conversations(
    factory: Callable[[], Environment],
    assistant: Assistant,
    *,
    name: str,
    number: int,
    parallel: int,
    max_turns: int,
    seed: int,
    personas: Sequence[Persona] = (),
    occasion: str = "",
) -> Iterator[dict[str, Any]]:
    """Yield finished conversations in the neutral log format, in the order of their numbers within
    a batch.

    Customers differ from policy to policy, from seed to seed and from occasion to occasion: nobody
    is evaluated on whom the log was made with.

    Args:
        factory: Makes an environment.
        assistant: Suggests.
        name: Of the environment, for the conversations' ids.
        number: Of conversations.
        parallel: Held together.
        max_turns: A conversation that is still open then is marked as unfinished.
        seed: Of the customers and the personas, which are drawn independently.
        personas: At most one for each conversation. The log tells its name, and the probability
            with which the conversation got it, or none.
        occasion: Tells conversations of one version apart, in their ids too: a policy that is kept
            for another round meets other customers there.
    """
    who = f"{assistant.version}/{occasion}" if occasion else assistant.version
    for start in range(0, number, parallel):
        batch = []
        for index in range(start, min(start + parallel, number)):
            environment = factory()
            customer_seed = int(unit_hash(f"{who}/{index}", seed=seed) * 2**53)
            first = observed(environment, "reset", customer_seed)
            uniform = unit_hash(f"{who}/persona/{index}", seed=seed)
            persona = persona_at(personas, uniform)
            episode = Episode(index, environment, first, persona=persona.name if persona else None)
            if first.customer is not None:
                episode.messages.append({"role": "customer", "content": first.customer})
            batch.append(episode)
        for _ in range(max_turns):
            waiting = [episode for episode in batch if not episode.observation.done]
            if not waiting:
                break
            for episode, suggestion in zip(
                waiting, assistant([e.waiting() for e in waiting]), strict=True
            ):
                episode.advance(suggestion)
        for episode in batch:
            yield {
                "conversation_id": f"{name}/{who}/{seed}/{episode.number}",
                "messages": episode.messages,
                "outcome": int(episode.observation.outcome),
                "unfinished": not episode.observation.done,
                "policy_version": assistant.version,
                **(_persona_columns(personas, episode.persona) if personas else {}),
            }


def _persona_columns(personas: Sequence[Persona], name: str | None) -> dict[str, Any]:
    return {"persona": name, "persona_probability": probability_of(personas, name)}
