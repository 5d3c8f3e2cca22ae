"""Configuration: one frozen class of settings per stage, without anything heavy."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from iterppo.personas import Personas, PersonasOf

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """A section of the configuration, or a table within one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class StageConfig(Settings):
    """What every stage's configuration has."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random in the stage; numpy takes no larger one."""


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """A duration such as `90s`, `30m`, `36h`, `7d`, `2w`, or a sum as `1d12h`.

    Raises:
        ValueError: If it is none.

    >>> parse_duration("1d12h")
    datetime.timedelta(days=1, seconds=43200)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; write 90s, 30m, 36h, 7d or 1d12h")
    try:
        return sum(
            (timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta()
        )
    except OverflowError:
        raise ValueError(f"{text!r} is longer than any calendar") from None


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _moment(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write it as 2026-05-31T00:00:00Z") from None
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return text


Duration = Annotated[str, AfterValidator(_duration)]
Moment = Annotated[str, AfterValidator(_moment)]
Pattern = Annotated[str, AfterValidator(_pattern)]


class ByMarks(Settings):
    """Outcomes from the `outcome` of messages."""

    by: Literal["marks"]


class ByConversation(Settings):
    """Outcomes from the `outcome` of the conversation as a whole."""

    by: Literal["conversation"]


class ByPattern(Settings):
    """Outcomes from what customers write."""

    by: Literal["pattern"]
    pattern: Pattern
    """Regular expression (Python's), searched in every message of the customer."""


class ByClassifier(Settings):
    """Outcomes from a fitted text classifier, on what customers write."""

    by: Literal["classifier"]
    model: str
    """Hugging Face folder of a sequence-classification model."""
    label: str = ""
    """The label that means the outcome; empty: the last one."""
    threshold: Share = 0.5
    """Probability from which on it is believed."""


class ByEvents(Settings):
    """Outcomes from a file of events: purchases, bookings."""

    by: Literal["events"]
    file: str
    """JSON Lines, CSV or Parquet, one event a row: a path, glob or URL."""
    join: Literal["conversation_id", "customer_id"] = "conversation_id"
    """What an event and a conversation have in common. A customer's event counts for one
    conversation only: of those that had begun and whose window was not over, the last."""
    key_column: str = ""
    """The file's column of that id; empty: it is called as `join`."""
    time_column: str = "time"
    """The file's column of the time; empty: it has none, which a join on customers does not
    allow."""
    time_format: str = "iso"
    """As `mapping.time_format`."""
    time_zone: str = "UTC"
    """Zone of times without one, as `Europe/Berlin`."""
    window: Duration = "0s"
    """An event counts until so long after the conversation's last message. `0s`: not after it where
    events are joined on customers, without limit where on conversations."""

    @model_validator(mode="after")
    def _check(self) -> ByEvents:
        if self.join == "customer_id" and not self.time_column:
            raise ValueError("events joined on customers need a time_column")
        if parse_duration(self.window) and not self.time_column:
            raise ValueError("a window needs a time_column")
        if self.time_format not in ("iso", "s", "ms", "us", "ns") and "%" not in self.time_format:
            raise ValueError("time_format is iso, s, ms, us, ns, or a pattern as %d/%m/%Y %H:%M")
        if self.time_column == (self.key_column or self.join):
            raise ValueError("key_column and time_column are one and the same")
        return self


Outcomes = Annotated[
    ByMarks | ByConversation | ByPattern | ByClassifier | ByEvents, Field(discriminator="by")
]


class EventMapping(Settings):
    """How the rows of an event log are read, one message a row."""

    columns: dict[
        Literal[
            "conversation_id",
            "role",
            "content",
            "time",
            "message_id",
            "outcome",
            "unfinished",
            "suggestion",
            "adoption",
            "suggestion_logprob",
            "policy_version",
            "persona",
            "customer_id",
            "business_id",
        ],
        str,
    ] = {}
    """Our name = theirs, where they differ: `content = "body"`."""
    roles: dict[str, Literal["customer", "business", "ignore"]] = {
        "customer": "customer",
        "user": "customer",
        "business": "business",
        "agent": "business",
        "assistant": "business",
        "system": "ignore",
    }
    """What the values of `role` mean."""
    adoptions: dict[
        str, Literal["verbatim", "edited", "influenced", "rejected", "abstained", "not_shown"]
    ] = {}
    """What the values of `adoption` mean, where they are not ours."""
    time_format: str = "iso"
    """`iso`; `s`, `ms`, `us` or `ns` since 1970; or a pattern as `%d/%m/%Y %H:%M` (strptime)."""
    time_zone: str = "UTC"
    """Zone of times without one, as `Europe/Berlin`."""


class IngestConfig(StageConfig):
    """Logs to trajectories."""

    format: Literal["auto", "conversations", "openai", "sharegpt", "events"] = "auto"
    """Format of the logs; `auto`: recognised, file by file."""
    mapping: EventMapping = EventMapping()
    """How an event log is read."""
    outcomes: list[Outcomes] = [ByMarks(by="marks"), ByConversation(by="conversation")]
    """Who says whether the outcome was reached: the earliest position that any of them names."""
    cutoff: Moment | Literal[""] = ""
    """When the log was cut, as 2026-05-31T00:00:00Z; with `idle`, tells which conversations are
    open. Empty: only the log's own marks tell."""
    idle: Duration = "0s"
    """A conversation whose last message is younger than this at the cutoff is open."""
    edited_up_to: Share = 0.5
    """Edit distance (divided by the longer length) up to which a suggestion counts as edited."""
    influenced_up_to: Share = 0.5
    """Edit distance up to which it counts as influenced; farther, as rejected."""
    facts: list[str] = []
    """Names in a conversation's `meta` that the policy may see; all others it never does."""
    heldout: Share = 0.2
    """Share of the conversations kept out of every fit, chosen by a hash of seed and key."""
    split_by: Literal["conversation", "customer", "business", "opening"] = "conversation"
    """What shares a split: a conversation; all of a customer's or a business's; all that open with
    the same message."""
    redact: bool = False
    """Mask e-mail addresses, phone numbers and card numbers before anything is written."""
    redact_patterns: dict[str, Pattern] = {}
    """More to mask: name = regular expression; what it finds becomes [NAME]."""
    max_reject_rate: Share = 0.01
    """Share of the lines that may be rejected; beyond it the stage ends with exit status 3."""

    @model_validator(mode="after")
    def _check(self) -> IngestConfig:
        needs_clock = any(isinstance(o, ByEvents) and o.window != "0s" for o in self.outcomes)
        if self.cutoff and parse_duration(self.idle).total_seconds() <= 0:
            raise ValueError("cutoff needs idle: how long a silence ends a conversation, as 24h")
        if not self.cutoff and (self.idle != "0s" or needs_clock):
            raise ValueError(
                "idle, or a window of events, needs cutoff: when the logs were cut, as "
                "2026-05-31T00:00:00Z"
            )
        if self.influenced_up_to < self.edited_up_to:
            raise ValueError("influenced_up_to lies below edited_up_to")
        return self


class CreditConfig(StageConfig):
    """Trajectories and a policy to one reward a turn (ITPO)."""

    normalise: Literal["none", "batch", "softmax-sum", "softmax-mean"] = "softmax-sum"
    """What a turn is paid. `softmax-sum`, `softmax-mean`: a share of the outcome, by a softmax over
    the turns' sums (the paper's Norm-ITPO) or over their means per token times the mean length of a
    turn (its released code); `none`: the sum itself, in nats (ITPO); `batch`: the sum in units of
    the largest return of a token in the log."""
    temperature: Positive = 0.4
    """Of the softmax, in nats: more shares the outcome out more evenly."""
    beta: Positive = 0.05
    """β: nats of the outcome's logit per nat of log π_φ − log π_ref. Less lets π_φ go further."""
    epochs: Positive = 3.0
    """Passes over the training conversations; the one that predicts best is kept."""
    max_steps: Count = 480
    """Upper limit of the optimiser steps."""
    tokens_per_batch: Count = 2048
    """Tokens of an optimiser step."""
    learning_rate: Positive = 1e-4
    """Peak learning rate; linear warm-up over 5 % of the steps, cosine decay to zero."""
    weight_decay: NonNegative = 0.0
    """AdamW weight decay: towards zero, and so away from π_ref."""
    max_tokens: Count = 496
    """Context of the model; longer renderings are cut as the policy's are."""
    checkpoint_steps: Count = 200
    """Steps between two saves, from which a killed fit goes on."""
    bootstrap_samples: CountOrZero = 400
    """Resamples of conversations for the intervals in metrics.json."""


class ReturnsConfig(StageConfig):
    """Trajectories to returns."""

    rewards: Literal["outcomes", "credit"] = "outcomes"
    """What returns are sums of: the outcomes of the log, or the rewards of turns that `iterppo
    credit` made of them."""
    gamma: Share = 0.99
    """Discount factor, per turn."""
    weights: Literal["kaplan-meier", "none"] = "kaplan-meier"
    """`kaplan-meier`: an ended conversation also stands for those like it that were still open
    when the log was cut; `none`: every known return counts once."""
    max_weight: Positive = 20.0
    """Cap of the weights: what one conversation may stand for."""


class InitConfig(StageConfig):
    """The first policy: a model that exists, or a small one trained from scratch on the log."""

    model: str = "scratch"
    """`scratch`, a Hugging Face folder, or a hub id."""
    system_prompt: str = "You suggest the next message for the business to send."
    """The policy's prompt: the system message of every state."""
    max_prompt_tokens: Count = 448
    """States longer than this are cut from the left, at a message boundary; in tokens."""
    max_new_tokens: Count = 48
    """A completion longer than this is not finished, hence not suggested; in tokens."""
    temperature: Positive = 1.0
    """Temperature that the policy samples with."""
    vocab_size: Count = 1024
    """Tokens of the byte-level BPE (scratch)."""
    hidden_size: Count = 128
    """Width of the model (scratch)."""
    num_layers: Count = 3
    """Layers of the model (scratch)."""
    num_heads: Count = 4
    """Attention heads (scratch)."""
    epochs: Positive = 5.0
    """Passes over the training conversations (scratch)."""
    max_steps: Count = 600
    """Upper limit of the optimiser steps (scratch)."""
    tokens_per_batch: Count = 2048
    """Tokens of an optimiser step (scratch)."""
    learning_rate: Positive = 4e-3
    """Peak learning rate; linear warm-up over 5 % of the steps, cosine decay to zero (scratch)."""
    context_weight: Share = 1.0
    """Weight of all other tokens in the loss; the actions have weight 1. Q starts from what was
    learned here (scratch)."""
    personas: Personas = []
    """File, or tables, of the personas that the log names: conversations are learned under their
    prompts, so that the policy heeds them later. Without it personas are not told apart
    (scratch)."""


class ActionsConfig(StageConfig):
    """A policy in the states of a log, to actions."""

    samples: Count = 4
    """K: actions in each state."""


OFF_POLICY = ("fqe", "lstdq")
"""Methods of fit-q that evaluate the policy that `iterppo actions` asked, whoever made the log."""


class FitQConfig(StageConfig):
    """Trajectories and returns to a Q-function."""

    method: Literal["mc", "td-lambda", "sarsa", "fqe", "lstd", "lstdq"] = "mc"
    """Targets. `mc`: Monte Carlo returns of the policy that made the log; `td-lambda`: λ-returns;
    `sarsa`: one step, then Q of the logged next action; `fqe`: one step, then Q of next actions
    that the policy to evaluate would take (`iterppo actions`), for logs of other policies. In
    closed form, on the policy's backbone as it is: `lstd` for the policy that made the log,
    `lstdq` for another one, as `fqe`."""
    ridge: NonNegative = 0.0
    """Turns that the pull of the heads towards zero counts as; 0: as many as predict the returns of
    left-out conversations best (lstd, lstdq)."""
    compared_turns: CountOrZero = 1000
    """Turns of the log that each state is compared with, to find the numbers that its future
    depends on; 0: heads are linear in the last hidden state (lstd, lstdq)."""
    state_size: Count = 8
    """Those numbers of a state (lstd, lstdq)."""
    action_size: Count = 8
    """And of an action, which a state does not foretell (lstd, lstdq)."""
    lambda_: Share = Field(default=0.8, alias="lambda")
    """λ of the λ-returns (td-lambda)."""
    sweeps: Count = 6
    """Regressions on targets of Q's own making, after the one on Monte Carlo returns (all but mc).
    What is learned of an outcome travels one turn back with each."""
    sweep_epochs: Positive = 1.0
    """Passes over the training conversations in each sweep (all but mc)."""
    sweep_learning_rate: Positive = 1e-3
    """Peak learning rate in sweeps: a sweep that moves Q only a part of the way to its targets
    costs as much as one that gets there (all but mc)."""
    members: Count = 4
    """Heads on the shared backbone, each fitted to its own bootstrap resample of the conversations;
    their spread says how sure Q is."""
    loss: Literal["bce", "squared"] = "bce"
    """`bce`: cross-entropy of a sigmoid head, for returns in [0, 1]; `squared`: for any returns,
    and what lstd and lstdq have."""
    epochs: Positive = 3.0
    """Passes over the training conversations."""
    max_steps: Count = 480
    """Upper limit of the optimiser steps."""
    tokens_per_batch: Count = 2048
    """Tokens of an optimiser step."""
    learning_rate: Positive = 3e-4
    """Peak learning rate; linear warm-up over 5 % of the steps, cosine decay to zero."""
    weight_decay: NonNegative = 0.05
    """AdamW weight decay."""
    max_tokens: Count = 496
    """Context of the Q-function; longer renderings are cut as the policy's are."""
    lora_rank: CountOrZero = 0
    """Rank of the adapters that are trained in the place of the backbone (LoRA), and merged into it
    in the end; 0: the backbone itself is trained."""
    lora_alpha: Count = 16
    """Scale of the adapters: α/rank."""
    bf16: bool = False
    """Compute in bfloat16; weights and heads stay float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    checkpoint_steps: Count = 200
    """Steps between two saves, from which a killed fit goes on."""
    part: Literal["all", "first-half", "second-half"] = "all"
    """Which of the training conversations Q is fitted on. A Q of the other half than the one that
    ppo climbs is its judge: `ppo --judge`."""
    sampled_states: CountOrZero = 200
    """Held-out states in which the policy is asked for other actions: what does Q make of them?"""
    sampled_actions: Annotated[int, Field(ge=2)] = 4
    """Actions asked for in each."""
    bootstrap_samples: Count = 1000
    """Resamples of held-out conversations for the intervals in metrics.json."""

    @property
    def is_closed_form(self) -> bool:
        """Whether only heads are fitted, by one system of equations."""
        return self.method in ("lstd", "lstdq")

    @property
    def reads_actions(self) -> bool:
        """Whether Q is of the policy that was asked, not of the one that made the log."""
        return self.method in OFF_POLICY

    @property
    def output(self) -> Literal["bce", "squared"]:
        """What the heads' numbers are: logits, or values."""
        return "squared" if self.is_closed_form else self.loss


class PromptsConfig(StageConfig):
    """Trajectories to single-turn prompts."""

    max_prompts: CountOrZero = 0
    """Keep at most so many, chosen by a hash of the seed and the prompt's id; 0: all."""


class PPOConfig(StageConfig):
    """Prompts, Q and a policy to a better policy."""

    algorithm: Literal["ppo", "grpo", "rloo"] = "ppo"
    """`ppo`: advantages of tokens, by a critic; `grpo`, `rloo`: of completions, against the others
    of their prompt, without a critic."""
    updates: Count = 16
    """Generation batches, each followed by `epochs` passes over it."""
    completions_per_update: Count = 128
    """Completions sampled for an update."""
    completions_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Completions sampled for each prompt."""
    minibatches: Count = 2
    """Optimiser steps per pass over an update's completions."""
    microbatch_size: Count = 16
    """Sequences in one forward and backward."""
    epochs: Count = 2
    """Passes over an update's completions."""
    generation: Literal["loop", "generate"] = "loop"
    """How completions are sampled: by a loop of our own, or by `generate` of transformers."""
    vllm: bool = False
    """Sample with vLLM, in this process; needs `trl[vllm]` and a GPU."""
    report_to: str = ""
    """Trackers that the curves go to besides, by their names in transformers, with commas between
    them: `tensorboard`, `wandb`, `mlflow` …; empty: none."""
    learning_rate: Positive = 5e-4
    """Learning rate of AdamW, with linear decay to zero."""
    clip: Positive = 0.2
    """ε of the clipped surrogate."""
    gamma: Share = 1.0
    """Discount factor, per token. Turns are discounted in Q already."""
    lambda_: Share = Field(default=0.95, alias="lambda")
    """λ of the generalised advantage estimate."""
    value_coefficient: NonNegative = 0.5
    """Weight of the value loss."""
    value_clip: NonNegative = 0.2
    """Clip range of the value around its estimate at sampling; 0: none."""
    kappa: NonNegative = 0.0
    """κ: the reward is Q less κ times its spread over the ensemble; more is more cautious."""
    baseline: Literal["none", "others"] = "others"
    """`others`: the reward is less the mean reward of the prompt's other completions. How good the
    state is cancels, so that the critic need not know: less noise with four or more
    `completions_per_prompt`, and the same gradient with `gamma` 1. `none`: the reward is Q itself,
    for two or three completions. (`ppo`; `grpo` and `rloo` have baselines of their own.)"""
    kl_coefficient: NonNegative = 0.03
    """β: what a nat of KL from the first policy costs, in units of Q."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where it is paid. `reward`: each token's reward loses β (log π − log π_ref), which is k1;
    `loss`: the loss has β k2 of each token, whose gradient is the same in expectation."""
    kl_target: NonNegative = 0.0
    """KL per completion, in nats, that β is steered to after every update; 0: β stays."""
    kl_horizon: Count = 1024
    """Completions over which an error of the KL works itself out in β (kl_target)."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy bonus."""
    whiten_advantages: bool = True
    """Scale the advantages of an update to mean 0 and standard deviation 1; less than that where
    the spread has fallen by more than a tenth since the update before."""
    critic: Literal["head", "separate"] = "head"
    """`head`: values are read by the policy's own backbone; `separate`: by a copy of it, which is
    trained beside the policy, for more memory and time. `ppo` only."""
    critic_warmup: Literal["q", "returns"] = "q"
    """What the value head is fitted on before the first update. `q`: completions of the first
    policy, worth what updates will pay for them; `returns`: suggestions of the log, worth their
    returns (reads the trajectories; with `baseline` none)."""
    critic_samples: CountOrZero = 512
    """Completions, or suggestions of the log, for that; 0: the value head starts at zero."""
    max_gradient_norm: Positive = 1.0
    """Clipping of the gradient's norm."""
    lora_rank: CountOrZero = 0
    """Rank of the adapters that are trained in the place of the model (LoRA), and merged into it in
    the end; 0: the model itself is trained."""
    lora_alpha: Count = 16
    """Scale of the adapters: α/rank."""
    bf16: bool = False
    """Compute in bfloat16; weights and the value head stay float32, but under DeepSpeed, which
    keeps weights in bfloat16 and a copy of them in float32."""
    checkpoint_updates: Count = 4
    """Updates between two saves, from which a killed training goes on."""
    watch_updates: CountOrZero = 4
    """Updates between two readings of the policy on held-out prompts. The policy with the highest
    Q − `kl_coefficient` · KL that was read is the one that is kept (the highest Q, with a
    `kl_target`); 0: nothing is read, and the last one is kept."""
    watched_prompts: Count = 128
    """Held-out prompts that are read, one completion each."""
    best_of: CountOrZero = 4
    """N of the baseline that the result is told beside: the first policy, and the best of N of its
    suggestions by the same Q; 0 or 1: none."""
    kl_budget: NonNegative = 25.0
    """KL from the first policy, in nats per completion, beyond which training stops; 0: none."""
    least_entropy: Share = 0.1
    """Training stops where a completion's entropy falls below this share of the first policy's."""
    least_distinct: Share = 0.25
    """Training stops where the share of distinct bigrams in what is said falls below this share of
    the first policy's."""
    judge_fall: NonNegative = 2.0
    """Training stops where the judge (`--judge`, Q of other conversations) falls by so many
    standard errors below its best while the reward still rises; 0: never. By one it falls by chance
    alone in one reading of six."""

    @model_validator(mode="after")
    def _check(self) -> PPOConfig:
        warms_up = self.algorithm == "ppo" and self.critic_samples > 0
        if warms_up and self.baseline == "others" and self.critic_warmup == "returns":
            raise ValueError(
                "critic_warmup returns needs baseline none: a return of the log has no others to "
                "be compared with"
            )
        return self


class ExportConfig(StageConfig):
    """A policy to a folder that others serve."""

    check: bool = True
    """Load the folder in a fresh process with plain transformers and complete one prompt."""
    personas: Personas = []
    """File, or tables, of personas that a server is to draw from, one for each conversation; they
    are written into the folder's settings and card."""


class GuardrailRule(Settings):
    """What one guardrail does. More of the measure is worse unless it says otherwise."""

    action: Literal["block", "warn", "off"] = "block"
    """`block`: the gate holds where it got significantly worse; `warn`: it is told; `off`: nobody
    looks."""
    worse: Literal["more", "less", "either"] = "more"
    """Which change is bad."""
    margin: NonNegative = 0.0
    """Change that is still none, in units of the measure."""


class LengthRule(GuardrailRule):
    """Longer suggestions are worse, from some words more on."""

    margin: NonNegative = 3.0
    """Words."""


class QuestionRule(GuardrailRule):
    """Both more and fewer questions are worse, from a large change on."""

    worse: Literal["more", "less", "either"] = "either"
    """Who asks nothing any more is another assistant too."""
    margin: NonNegative = 0.25
    """Share of the suggestions."""


class ClassifierRule(GuardrailRule):
    """Probability of a label by a Hugging Face text classifier."""

    name: str
    """What it is called in the report."""
    model: str
    """Folder with config, safetensors and tokenizer, as for `ingest`'s outcomes."""
    label: str = ""
    """The label whose probability counts; empty: the last one."""


class GuardrailSettings(Settings):
    """The guardrails that read texts alone."""

    length: LengthRule = LengthRule()
    """Words of a suggestion."""
    question: QuestionRule = QuestionRule()
    """Share of the suggestions that ask something."""
    repetition: GuardrailRule = GuardrailRule()
    """Share of a suggestion's three-word sequences that it repeats."""
    abstention: GuardrailRule = GuardrailRule()
    """Share of the states in which nothing is suggested."""
    unknown_characters: GuardrailRule = GuardrailRule()
    """Share of the suggestions with replacement, control or unassigned characters."""
    pressure: GuardrailRule = GuardrailRule()
    """Share of the suggestions in which the lexicon finds a pressure tactic."""


class EvaluateConfig(StageConfig):
    """A new policy, from the log of the one before it."""

    gamma: Share = 1.0
    """Discount per turn of the values by importance sampling; 1: the outcome rate. The value by Q
    has the discount of the returns that Q was fitted with."""
    samples: Count = 4
    """Suggestions of each policy in each state, where no actions artifact is named."""
    states: Count = 1000
    """Held-out states in which both policies are asked for suggestions, in whole conversations."""
    bootstrap_samples: Count = 1000
    """Resamples of conversations for the intervals."""
    least_effective: NonNegative = 50.0
    """Effective sample size, in conversations, below which importance sampling gives no number."""
    most_weight: Share = 0.1
    """Share of the weight of one conversation above which it gives none."""
    ratio_low: NonNegative = 0.1
    """A turn overlaps where the new policy takes its action with at least so many times the old
    one's probability, and"""
    ratio_high: Positive = 10.0
    """at most so many times."""
    least_turn_overlap: Share = 0.3
    """Effective share of the turns, each by itself, below which Q alone gives no number, since
    nothing shows whether it is right where the new policy goes; a KL of half a nat per suggestion
    may leave so much. 0: nobody asks."""
    logprob_tolerance: Positive = 0.1
    """Nats by which a recomputed log-probability may miss the logged one."""
    decide_by: Literal["auto", "dr", "wis", "fqe"] = "auto"
    """The estimate that the gate looks at; `auto`: the first of dr, wis, fqe that the data
    support."""
    tolerance: NonNegative = 0.0
    """Loss that the gate puts up with: the lower end of the improvement's interval must lie above
    minus so many outcomes a conversation."""
    kl_budget: NonNegative = 25.0
    """KL from the old policy, in nats per suggestion, beyond which the gate holds; 0: none."""
    least_verdict: Literal["any", "weak", "usable"] = "weak"
    """The least verdict on the Q that the policy was trained on (`--q`)."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Chance that some guardrail fails although nothing got worse."""
    guardrails: GuardrailSettings = GuardrailSettings()
    """By measure: action, worse, margin."""
    lexicon: str = ""
    """TOML of pressure tactics, lists of regular expressions; empty: the English one that comes
    with the package."""
    classifiers: list[ClassifierRule] = []
    """More guardrails: Hugging Face folders of text classifiers."""

    @model_validator(mode="after")
    def _check(self) -> EvaluateConfig:
        if self.ratio_low >= self.ratio_high:
            raise ValueError("ratio_low is not below ratio_high")
        names = [*GuardrailSettings.model_fields, *(each.name for each in self.classifiers)]
        if len(set(names)) < len(names):
            raise ValueError("two guardrails have one name")
        return self


class RolloutConfig(StageConfig):
    """A policy in an environment, to a log."""

    env: str = "shop"
    """An entry point of the group `iterppo.environments`, or `module:factory`."""
    script: str = ""
    """Which of the environment's own assistants, where it has several; `scripted` policies only."""
    conversations: Count = 2400
    """Conversations to hold."""
    parallel: Count = 256
    """Conversations held together; one batch of generation serves all of them."""
    max_turns: Count = 20
    """A conversation that is still open then is logged as unfinished."""
    personas: PersonasOf = "policy"
    """File, or tables, of personas, of which at most one is drawn for each conversation; `policy`:
    those that the policy was exported with; `none`."""
