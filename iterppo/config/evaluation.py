"""Settings of evaluate: estimates, when they count, and the guardrails of the gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from iterppo.config.base import Count, NonNegative, Positive, Settings, Share, StageConfig


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
    conversations: Literal["heldout", "all"] = "heldout"
    """What the new policy's value is estimated on. `heldout`: conversations that no stage learned
    from; by the outcomes that taught it, every policy looks better than it is. `all`: of a log that
    it did not learn from."""
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
