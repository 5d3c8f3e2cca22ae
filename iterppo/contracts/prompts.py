"""`prompts`: the single-turn problems, one per non-terminal state."""

from typing import ClassVar

from pydantic import BaseModel

from iterppo.contracts.base import Row, column


class Message(BaseModel):
    """A chat message."""

    role: str
    content: str


class PromptsRow(Row):
    """The prompt x that the policy uses for a state s_i (paper, Algorithm 1, line 6)."""

    kind: ClassVar[str] = "prompts"
    one_row_is: ClassVar[str] = "a non-terminal state, as the policy sees it"

    prompt_id: str = column("conversation_id/turn.")
    conversation_id: str = column("Conversation.")
    turn: int = column("i, from 1.", arrow="int32")
    prompt: list[Message] = column(
        "The state as chat messages: system, then user and assistant in turn."
    )
    n_tokens: int = column(
        "Length of the rendered prompt under the policy's tokenizer.", unit="tokens", arrow="int32"
    )
    num_cut_messages: int = column(
        "Messages cut from the left to fit the context.", unit="messages", arrow="int32"
    )
    split: str = column("train or heldout.")
