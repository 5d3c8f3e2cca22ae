"""Settings of what leads from trajectories to Q: credit, returns, actions, fit-q."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from iterppo.config.base import Count, CountOrZero, NonNegative, Positive, Share, StageConfig


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
