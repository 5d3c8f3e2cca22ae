"""Where `benchmarks.itpo` plays: environments whose advantages are known exactly, and a π_0.

π_0 clones conversations of the environment's script `mediocre`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.itpo_dialogues import Array, Dialogue, hold_by_script
from iterppo.environments.shop import SCRIPTS as SHOP_SCRIPTS
from iterppo.environments.shop import Shop
from iterppo.environments.shop_solution import ShopSolution
from iterppo.environments.tutor import SCRIPTS as TUTOR_SCRIPTS
from iterppo.environments.tutor import Tutor
from iterppo.environments.tutor_solution import TutorSolution
from iterppo.lm.cloning import clone, examples_of
from iterppo.lm.policy import Policy, PolicySettings
from iterppo.lm.rendering import Renderer, decisions
from iterppo.lm.scratch import build_model, train_tokenizer

SCRIPT = "mediocre"


@dataclass(frozen=True)
class World:
    """An environment and the truth about it."""

    factory: Callable[[], Any]
    truth: Callable[[], Any]
    """Makes the exact solution of the script, undiscounted: `value` and `state_value`."""
    max_turns: int
    max_new_tokens: int
    context_tokens: int
    vocab_size: int
    system_prompt: str

    def advantages(self, dialogues: Sequence[Dialogue]) -> Array:
        """A^π(s_k, a_k) of every turn, π the script."""
        solution = self.truth()
        found = []
        for dialogue in dialogues:
            for number, turn in enumerate(dialogue.turns, start=1):
                seen = dialogue.turns[:number]
                value = solution.value(seen, turn["suggestion"])
                found.append(value - solution.state_value(seen))
        return np.array(found)


WORLDS = {
    "tutor": World(
        Tutor,
        lambda: TutorSolution(TUTOR_SCRIPTS[SCRIPT], gamma=1.0),
        max_turns=6,
        max_new_tokens=24,
        context_tokens=384,
        vocab_size=480,
        system_prompt="You teach.",
    ),
    "shop": World(
        Shop,
        lambda: ShopSolution(SHOP_SCRIPTS[SCRIPT], gamma=1.0),
        max_turns=8,
        max_new_tokens=40,
        context_tokens=1024,
        vocab_size=800,
        system_prompt="You sell.",
    ),
}


def first_policy(
    world: World,
    *,
    conversations: int,
    hidden_size: int,
    num_layers: int,
    max_steps: int,
    learning_rate: float,
    seed: int,
) -> Policy:
    """A small model from scratch that talks as the script does."""
    held = hold_by_script(
        world.factory, SCRIPT, number=conversations, max_turns=world.max_turns, seed=seed
    )
    taken = []
    for turns, _ in held:
        following = [turn["customer"] for turn in turns[1:]]
        rows = [
            {**turn, "customer_after": after}
            for turn, after in zip(turns, [*following, None], strict=True)
        ]
        taken.append(list(decisions(rows, system_prompt=world.system_prompt)))
    texts = [
        text
        for turns in taken
        for turn in turns
        for text in (turn.state[-1]["content"], turn.action)
        if text
    ]
    tokenizer = train_tokenizer([world.system_prompt, *texts], vocab_size=world.vocab_size)
    renderer = Renderer(tokenizer)
    torch.manual_seed(seed)
    model = build_model(
        tokenizer,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=4,
        context_tokens=world.context_tokens,
    )
    clone(
        model,
        [
            example
            for turns in taken
            for example in examples_of(turns, renderer, max_tokens=world.context_tokens)
        ],
        pad_id=tokenizer.pad_token_id,
        context_weight=0.3,
        epochs=100.0,
        max_steps=max_steps,
        tokens_per_batch=2048,
        learning_rate=learning_rate,
        seed=seed,
    )
    model.eval()
    settings = PolicySettings(
        version="first",
        system_prompt=world.system_prompt,
        max_prompt_tokens=world.context_tokens - world.max_new_tokens,
        max_new_tokens=world.max_new_tokens,
        temperature=1.0,
    )
    return Policy(model, renderer, settings)
