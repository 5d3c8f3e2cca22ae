"""A tokenizer of a few hundred tokens, a policy of a few thousand weights, rows of a log, PPO."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from iterppo.lm import policy as policies
from iterppo.lm.cloning import clone, examples_of
from iterppo.lm.critic_warmup import LoggedSuggestion
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.ppo import PPOTrainer, Reward
from iterppo.lm.rendering import Message, Renderer, decisions
from iterppo.lm.scratch import build_model, train_tokenizer
from tests.lm.ppo_runs import Run, Start, config, says_yes

SYSTEM = "You suggest the next message."
TEXTS = [
    SYSTEM,
    "Hello! I need help with my kitchen.",
    "Which room shall we renovate?",
    "The bathroom, please. What would that cost?",
    "The total would be 9500 all in.",
    "That is quite a lot of money.",
    "Shall we come by for a visit on Monday?",
    "Yes, Monday is fine. Thank you!",
]

MakeRow = Callable[..., dict[str, Any]]
MakePolicy = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    """As every stage does before it works with a model; and a model so small wants one thread."""
    policies.prepare_libraries()
    torch.set_num_threads(1)


def one_row(
    customer: str | None,
    suggestion: str | None = None,
    sent: str | None = None,
    adoption: str | None = None,
    customer_after: str | None = None,
) -> dict[str, Any]:
    """A trajectories row, as far as rendering and cloning read it."""
    return {
        "customer": customer,
        "suggestion": suggestion,
        "sent": sent,
        "adoption": adoption,
        "customer_after": customer_after,
    }


@pytest.fixture(scope="session")
def row() -> MakeRow:
    return one_row


@pytest.fixture(scope="session")
def system() -> str:
    return SYSTEM


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    """Of the embedded default: control tokens alone between messages."""
    return Renderer(train_tokenizer(TEXTS * 3, vocab_size=340))


@pytest.fixture(scope="session")
def pairs() -> list[tuple[str, str]]:
    """What the tiny policy has been taught to say: five answers, equally often."""
    answers = ["yes", "no", "maybe", "soon", "later"]
    asked = ["Is it done?", "Shall we come by for a visit on Monday?", "Hello!", "And then?"]
    return [(question, answer) for question in asked for answer in answers]


@pytest.fixture(scope="session")
def make_policy(
    tmp_path_factory: pytest.TempPathFactory, renderer: Renderer, pairs: list[tuple[str, str]]
) -> MakePolicy:
    """Makes the folder of a tiny policy; with `steps`, it was taught `taught` (else `pairs`)."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(
        *,
        steps: int = 0,
        temperature: float = 1.0,
        max_new_tokens: int = 6,
        attention_dropout: float = 0.0,
        seed: int = 0,
        taught: tuple[tuple[str, str], ...] | None = None,
    ) -> Path:
        key = (steps, temperature, max_new_tokens, attention_dropout, seed, taught)
        if key in made:
            return made[key]
        torch.manual_seed(seed)
        model = build_model(
            renderer.tokenizer, hidden_size=32, num_layers=2, num_heads=2, context_tokens=128
        )
        model.config.attention_dropout = attention_dropout
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = attention_dropout
        if steps:
            examples = [
                example
                for asked, answer in taught or pairs
                for example in examples_of(
                    list(
                        decisions(
                            [one_row(asked, answer, answer, "verbatim")], system_prompt=SYSTEM
                        )
                    ),
                    renderer,
                    max_tokens=128,
                )
            ]
            clone(
                model,
                examples,
                pad_id=renderer.tokenizer.pad_token_id,
                context_weight=0.0,
                epochs=10_000,
                max_steps=steps,
                tokens_per_batch=100_000,
                learning_rate=2e-2,
                seed=seed,
            )
        folder = tmp_path_factory.mktemp("policy")
        policies.save_policy(
            folder,
            model=model,
            renderer=renderer,
            settings={
                "system_prompt": SYSTEM,
                "max_prompt_tokens": 100,
                "max_new_tokens": max_new_tokens,
                "temperature": temperature,
            },
        )
        made[key] = folder
        return folder

    return make


@pytest.fixture
def policy(make_policy: MakePolicy) -> Policy:
    """Freshly loaded: a test may change its weights."""
    return policies.load_policy(make_policy(steps=40))


@pytest.fixture(scope="session")
def prompts(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Problems of clearly different lengths, as the `ppo` stage passes them on."""
    questions = list(dict.fromkeys(asked for asked, _ in pairs))
    return [{"prompt_id": f"p{n}/1", "prompt": state(asked)} for n, asked in enumerate(questions)]


def state(*said: str, roles: Sequence[str] = ("user", "assistant")) -> list[Message]:
    """System prompt, then the texts in turn."""
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
    return [{"role": "system", "content": SYSTEM}, *messages]


@pytest.fixture(scope="session")
def make_state() -> Callable[..., list[Message]]:
    return state


@pytest.fixture
def own_accelerator() -> Iterator[None]:
    """Accelerate keeps its state for the process; the next trainer starts with a fresh one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def start(
    own_accelerator: None,
    make_policy: MakePolicy,
    prompts: list[dict[str, Any]],
    tmp_path: Path,
) -> Start:
    """Makes a trainer of the policy that was cloned, or of another one."""

    def make(
        *,
        folder: Path | None = None,
        reward: Reward = says_yes,
        problems: list[dict[str, Any]] | None = None,
        change: Callable[[Any], None] = lambda model: None,
        on_samples: Callable[[list[dict[str, Any]]], None] | None = None,
        watched: list[dict[str, Any]] | None = None,
        judge: Reward | None = None,
        logged: Sequence[LoggedSuggestion] = (),
        **settings: Any,
    ) -> Run:
        policy = load_policy(folder or make_policy(steps=100))
        change(policy.model)
        samples: list[dict[str, Any]] = []
        trainer = PPOTrainer(
            policy=policy,
            reward=reward,
            prompts=problems or prompts,
            config=config(**settings),
            work=tmp_path / "work",
            on_samples=on_samples or samples.extend,
            watched=watched or [],
            judge=judge,
            logged=logged,
        )
        return Run(trainer, policy, samples)

    return make
