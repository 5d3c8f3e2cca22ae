"""States and actions as chat messages and as tokens: the single place that does it.

    trajectories rows -> Decision(state as messages, action) -> token ids

The rendering of s_{i+1} begins with the rendering of (s_i, a_i), so one causal pass over a
conversation sees every turn of it. Text that people wrote becomes tokens by itself and can never
become a control token: a customer who types `<|assistant|>` has typed thirteen characters.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from iterppo.contracts.trajectories import action as action_of
from iterppo.errors import UsageError

Message = dict[str, str]

SENT_MARK = "[business sent]"
CUSTOMER_MARK = "[customer]"
_PARTS = re.compile(rf"^({re.escape(SENT_MARK)}|{re.escape(CUSTOMER_MARK)})(?: |$)", re.MULTILINE)
_MARKS = re.compile(r"\[(business sent|customer)\]", re.IGNORECASE)
# Private-use characters: no template holds them, and what people wrote takes no part in rendering a
# template.
_SLOT = re.compile("\ue000(\\d+)\ue001")
_ON_A_DAY = "{{%- macro strftime_now(format) -%}}{day}{{%- endmacro -%}}"
"""Before a template, it takes the place of the clock that transformers give to templates."""


@dataclass(frozen=True)
class Decision:
    """A turn as the policy meets it."""

    row: Mapping[str, Any]
    state: list[Message]
    action: str | None
    """a_i; "" is ∅ (abstained), None: the turn has no action of the assistant."""


def decisions(
    rows: Iterable[Mapping[str, Any]],
    *,
    system_prompt: str,
    personas: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Decision]:
    """States and actions of a conversation's turns, in order.

    The system message is the policy's prompt, and below it the persona's where the conversation has
    one, and the facts that the configuration lets the policy know of the conversation. Each c_i is
    a user message, each a_i an assistant message; what the business really sent, where it differs
    from a_i, opens the next user message as a marked note. Turns without an action leave no
    assistant message behind; what follows continues the user message.

    Args:
        rows: Of trajectories, or as an assistant sees them.
        system_prompt: Of the policy.
        personas: Prompt by name; the first turn's `persona` is the conversation's. Without it, and
            for a name that it lacks, the state is what the plain policy sees: that is how Q,
            prompts and the policy's own actions are made, whatever persona made the log.
    """
    messages: list[Message] = []
    note: str | None = None
    for row in rows:
        if not messages:
            messages = [{"role": "system", "content": _system(row, system_prompt, personas)}]
        content = _user_content(row["customer"], note)
        if messages[-1]["role"] == "user":
            joined = f"{messages[-1]['content']}\n{content}".strip()
            messages = [*messages[:-1], {"role": "user", "content": joined}]
        else:
            messages = [*messages, {"role": "user", "content": content}]
        action = action_of(row)
        if action is not None:
            action = action.strip()
        yield Decision(row, messages, action)
        if action is not None:
            messages = [*messages, {"role": "assistant", "content": action}]
        note = _note(row, action)


def _system(row: Mapping[str, Any], system_prompt: str, personas: Mapping[str, str]) -> str:
    persona = personas.get(row.get("persona") or "", "")
    prompt = f"{system_prompt.strip()}\n{persona.strip()}".strip()
    facts = row.get("facts")
    return f"{prompt}\n\n{facts}" if facts else prompt


def closing_content(last: Decision) -> str:
    """The customer's message that ended the conversation, as the user message that it would have
    been; "" if none."""
    closing = last.row["customer_after"]
    return "" if closing is None else _user_content(closing, _note(last.row, last.action))


def _note(row: Mapping[str, Any], action: str | None) -> str | None:
    sent = (row["sent"] or "").strip()
    return sent if sent and sent != action else None


def _user_content(customer: str | None, note: str | None) -> str:
    said = _disarm((customer or "").strip())
    if note is None:
        return said
    return f"{SENT_MARK} {_disarm(note)}\n{CUSTOMER_MARK} {said}".strip()


def _apart(content: str) -> tuple[list[str], list[str]]:
    """What the business sent by its own account, and what the customer said, in a user message."""
    first, *rest = _PARTS.split(content)
    parts = [(CUSTOMER_MARK, first), *zip(rest[::2], rest[1::2], strict=True)]
    sent, heard = (
        [text for mark, text in parts if mark == wanted and text.strip()]
        for wanted in (SENT_MARK, CUSTOMER_MARK)
    )
    return sent, heard


def _disarm(text: str) -> str:
    """Nobody can forge a note: its marks are changed where people typed them."""
    return _MARKS.sub(lambda match: f"({match.group(1)})", text)


class Said(NamedTuple):
    """Tokens of what people wrote in a state, one message after the other."""

    customer: tuple[int, ...]
    business: tuple[int, ...]
    """What was sent, which may be what the assistant suggested."""


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation with the positions where actions end."""

    ids: list[int]
    ends: list[tuple[int, int]]
    """(index of the decision, position where its pair is read: see `Renderer.pair_ids`)."""
    states: list[int]
    """Position of the last token of each end's state: what follows it is the action."""
    said: list[Said]
    """Up to each of these states."""


class Renderer:
    """Chat messages -> token ids, by the tokenizer's own chat template.

    Raises:
        UsageError: If the template or the tokenizer cannot keep the promises of this module.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        name = tokenizer.name_or_path or "the tokenizer"
        if not tokenizer.is_fast:
            raise UsageError(f"{name}: not a fast tokenizer. Convert it to tokenizer.json first.")
        if tokenizer.chat_template is None:
            raise UsageError(f"{name}: has no chat template. Use an instruction-tuned model.")
        if tokenizer.eos_token_id is None:
            raise UsageError(f"{name}: has no end-of-turn token (eos_token).")
        self.tokenizer = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self._plain = _without_control_tokens(tokenizer)
        self._fragment_ids = functools.lru_cache(maxsize=4096)(self._encode_fragment)
        self._content_ids = functools.lru_cache(maxsize=65536)(self._encode_content)
        self._fragments = functools.lru_cache(maxsize=4096)(self._template_fragments)
        self._check(name)

    # --- messages to tokens

    def prompt_ids(self, state: Sequence[Message]) -> list[int]:
        """Tokens of a state, ready for the assistant to go on."""
        return self._ids(state, generation=True)

    def text_ids(self, text: str) -> list[int]:
        """Tokens of a text that somebody wrote."""
        return list(self._content_ids(text.strip()))

    def action_ids(self, action: str) -> list[int]:
        """Tokens of an action, end of turn included."""
        return [*self._content_ids(action), self.eos_id]

    def turn_ids(self, action: str) -> list[int]:
        """Tokens of an action and of what the template writes up to the customer's next word."""
        opening = self._fragments(("system", "user", "assistant", "user"), False)[3]
        return [*self._content_ids(action), *self._fragment_ids(opening)]

    def pair_ids(self, state: Sequence[Message], action: str) -> list[int]:
        """Tokens of (s, a), up to the place where the customer's answer would begin.

        A model that has learned conversations is there about to predict the answer; at the
        end-of-turn token before, it predicts nothing but the template. The values of Q are read at
        the last token.
        """
        return self.prompt_ids(state) + self.turn_ids(action)

    def said(self, state: Sequence[Message]) -> Said:
        """What customer and business wrote in a state.

        A suggestion is what the business sent, unless a note says what it sent in its place. That
        one opens the next user message; one further down is of a turn without a suggestion.
        """
        customer: list[int] = []
        business: list[int] = []
        suggestion = ""
        for message in state:
            if message["role"] == "assistant":
                suggestion = message["content"]
            elif message["role"] == "user":
                sent, heard = _apart(message["content"])
                if not message["content"].startswith(SENT_MARK):
                    sent = [suggestion, *sent]
                for text in sent:
                    business += self.text_ids(text)
                for text in heard:
                    customer += self.text_ids(text)
                suggestion = ""
        return Said(tuple(customer), tuple(business))

    def looks_like_control(self, state: Sequence[Message]) -> bool:
        """Whether a message holds a string that a careless reader takes for a control token."""
        tokens = self.tokenizer.get_added_vocab()
        return any(token in message["content"] for message in state for token in tokens)

    def fit(self, state: Sequence[Message], *, max_tokens: int) -> tuple[list[Message], int] | None:
        """Cut a state from the left, at a user message, until its prompt has at most `max_tokens`.

        The system message stays. Returns the messages kept and the number cut, or None where even
        the last message alone does not fit (a message is never cut inside).
        """
        messages = list(state)
        starts = [1, *(n for n, m in enumerate(messages) if m["role"] == "user" and n > 1)]
        for start in starts:
            kept = [messages[0], *messages[start:]]
            if len(self.prompt_ids(kept)) <= max_tokens:
                return kept, start - 1
        return None

    def segments(
        self, turns: Sequence[Decision], *, max_tokens: int
    ) -> tuple[list[Segment], list[int]]:
        """Sequences that hold every (s_i, a_i) of a conversation, each as short a list as the
        context allows.

        Turns that share a left end share a sequence, since the shorter rendering is a prefix of the
        longer one.

        Returns:
            The segments, and the indices of decisions whose pair does not fit into `max_tokens`.
        """
        by_cut: dict[int, Segment] = {}
        too_long: list[int] = []
        for index, turn in enumerate(turns):
            if turn.action is None:
                continue
            action = self.turn_ids(turn.action)
            fitted = self.fit(turn.state, max_tokens=max_tokens - len(action))
            if fitted is None:
                too_long.append(index)
                continue
            messages, cut = fitted
            prompt = self.prompt_ids(messages)
            ids = prompt + action
            before = by_cut.get(cut, Segment([], [], [], []))
            by_cut[cut] = Segment(
                ids,
                [*before.ends, (index, len(ids) - 1)],
                [*before.states, len(prompt) - 1],
                [*before.said, self.said(messages)],
            )
        return list(by_cut.values()), too_long

    # --- how

    def _ids(self, messages: Sequence[Message], *, generation: bool) -> list[int]:
        fragments = self._fragments(tuple(m["role"] for m in messages), generation)
        ids = list(self._fragment_ids(fragments[0]))
        for message, fragment in zip(messages, fragments[1:], strict=True):
            ids += self._content_ids(message["content"].strip())
            ids += self._fragment_ids(fragment)
        return ids

    def _template_fragments(self, roles: tuple[str, ...], generation: bool) -> list[str]:
        """What the template writes before, between and after the contents of messages with these
        roles."""
        slots = [{"role": role, "content": f"\ue000{n}\ue001"} for n, role in enumerate(roles)]
        text = self.tokenizer.apply_chat_template(
            slots, tokenize=False, add_generation_prompt=generation
        )
        parts = _SLOT.split(str(text))
        if [int(number) for number in parts[1::2]] != list(range(len(roles))):
            raise UsageError(
                f"{self.tokenizer.name_or_path}: its chat template drops, repeats or reorders "
                "messages."
            )
        return parts[0::2]

    def _encode_fragment(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode_content(self, text: str) -> tuple[int, ...]:
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def _check(self, name: str) -> None:
        control = set(self.tokenizer.get_added_vocab().values())
        for token in self.tokenizer.get_added_vocab():
            if control & set(self._content_ids(token)):
                raise UsageError(
                    f"{name}: cannot spell {token!r} as plain text, so a log could forge control "
                    "tokens."
                )
        system, user, assistant = (
            {"role": r, "content": r} for r in ("system", "user", "assistant")
        )
        state = [system, user]
        try:
            pair = self.pair_ids(state, "assistant")
            following = self.prompt_ids([*state, assistant, user])
            cut = self.prompt_ids([system, user, assistant, user, assistant, user])
        except UsageError:
            raise
        except Exception as error:  # a template can raise anything
            raise UsageError(
                f"{name}: its chat template refuses system, user, assistant, …: {error}."
            ) from None
        longer = self.pair_ids([*state, assistant, user], "assistant")
        if following[: len(pair)] != pair or cut[: len(longer)] != longer:
            raise UsageError(
                f"{name}: its chat template does not preserve prefixes (the rendering of a later "
                "turn must begin with "
                "the rendering of the earlier one). Give the folder a template without conditions "
                "on later messages."
            )
        if self.turn_ids("assistant")[: len(self.action_ids("assistant"))] != self.action_ids(
            "assistant"
        ):
            raise UsageError(
                f"{name}: its chat template does not end an assistant message with the eos token."
            )
        if self._text_on("one day", state) != self._text_on("another", state):
            raise UsageError(
                f"{name}: its chat template writes today's date, so that a state would be other "
                "tokens tomorrow. Give the folder a template with a date that stays."
            )
        switches: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": False})
        begun, begun_silently = (
            self.tokenizer.apply_chat_template(
                state, tokenize=False, add_generation_prompt=True, **switch
            )
            for switch in switches
        )
        if begun != begun_silently:
            raise UsageError(
                f"{name}: its chat template lets it think aloud, and a thought is no suggestion. "
                "Take a model that does not, or give the folder a template that writes the empty "
                "thought before every assistant message."
            )
        if following != self.tokenizer.apply_chat_template(
            [*state, assistant, user], add_generation_prompt=True, return_dict=False
        ):
            raise UsageError(
                f"{name}: its tokenizer joins messages with the text around them, so that plain "
                "transformers would serve other tokens than training saw. Take another model."
            )

    def _text_on(self, day: str, messages: Sequence[Message]) -> str:
        """What the template makes of the messages on that day."""
        template = _ON_A_DAY.format(day=day) + self.tokenizer.get_chat_template()
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False
            )
        )


def _without_control_tokens(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The same tokenizer, knowing no control tokens."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] = []
    content["post_processor"] = None
    content["truncation"] = content["padding"] = None
    return Tokenizer.from_str(json.dumps(content))
