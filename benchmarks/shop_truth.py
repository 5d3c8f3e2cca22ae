"""What is true of the shop, exactly: how often each policy succeeds, and what it costs to know.

    python -m benchmarks.shop_truth [--conversations N]

success: probability of the outcome; share: of the optimum's. Policies that look at the whole
conversation are solved over all that it can show (`iterppo.environments.shop_optimum`), scripts by
`shop_solution`. `myopic` is the best for γ = 0, `acceptance_blind` the best for a business that
sends every suggestion as it is; ties are broken in their favour.

--conversations: play as many of each in words too, and print the rate with its standard error.
solver_seconds: time on the processor for V* and Q* of all states, from nothing. The last line
printed is a JSON object.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from random import Random

from iterppo.environments.episodes import Assistant, Suggestion, TurnSoFar, hold_conversations
from iterppo.environments.shop import SCRIPTS, SETTINGS, Script, ScriptedAssistant, Shop
from iterppo.environments.shop_layers import layers
from iterppo.environments.shop_optimum import (
    OptimalAssistant,
    ShopPlan,
    acceptance_blind,
    myopic,
    optimum,
)
from iterppo.environments.shop_solution import ShopSolution

START = [{"customer": SETTINGS["replies"]["opening"][0]}]
PLANS: dict[str, Callable[[], ShopPlan]] = {
    "optimum": optimum,
    "acceptance_blind": acceptance_blind,
    "myopic": myopic,
}


def main() -> None:
    """Solve, play, print."""
    parser = argparse.ArgumentParser(prog="benchmarks.shop_truth", description=__doc__)
    parser.add_argument("--conversations", type=int, default=0, help="of each policy, in words")
    options = parser.parse_args()
    started = time.process_time()
    best = optimum().start_value
    result: dict[str, float] = {"solver_seconds": round(time.process_time() - started, 2)}
    result["visible_states"] = sum(len(layer.codes) for layer in layers())
    exact = {name: plan().start_value for name, plan in PLANS.items()}
    for name, script in SCRIPTS.items():
        exact[name] = ShopSolution(script, gamma=1.0).state_value(START)
    exact["abstain"] = ShopSolution(lambda reply, turn: {None: 1.0}, gamma=1.0).state_value(START)
    print(f"{'policy':18}{'success':>9}{'share':>8}" + "   in words" * bool(options.conversations))
    for name, success in exact.items():
        result[name] = round(success, 4)
        line = f"{name:18}{success:9.4f}{success / best:8.3f}"
        if options.conversations and (assistant := in_words(name)) is not None:
            line += "   " + played(assistant, options.conversations)
        print(line, flush=True)
    print(json.dumps(result))


def in_words(name: str) -> Assistant | None:
    """The policy as an assistant; None: it says nothing."""
    if name in PLANS:
        return OptimalAssistant(0, PLANS[name](), version=name)
    return _InWords(SCRIPTS[name]) if name in SCRIPTS else None


def played(assistant: Assistant, number: int) -> str:
    """The rate of success in as many conversations."""
    records = hold_conversations(
        Shop,
        assistant,
        name="shop",
        number=number,
        parallel=100,
        max_turns=SETTINGS["max_turns"],
        seed=Random(assistant.version).getrandbits(30),
    )
    rate = sum(record["outcome"] for record in records) / number
    return f"{rate:.4f} ± {math.sqrt(rate * (1 - rate) / number):.4f}"


class _InWords:
    """A script as an assistant of episodes."""

    def __init__(self, script: Script) -> None:
        self.version = script.name
        self._assistant = ScriptedAssistant(0, script)

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        return [
            Suggestion(self._assistant.suggest(turns[-1]["customer"], len(turns)), None)
            for turns in conversations
        ]


if __name__ == "__main__":
    main()
