"""Settings of a policy's life: init, prompts, ppo, export, rollout."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from iterppo.config.base import Count, CountOrZero, NonNegative, Positive, Share, StageConfig
from iterppo.personas import Personas, PersonasOf


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

    @model_validator(mode="after")
    def _check(self) -> InitConfig:
        """Each head has a share of the width, and rotary positions turn its numbers in pairs."""
        step = 2 * self.num_heads
        if self.model == "scratch" and self.hidden_size % step:
            below, above = self.hidden_size // step * step, -(-self.hidden_size // step) * step
            near = f"{below} or {above}" if below else f"{above}"
            raise ValueError(
                f"hidden_size = {self.hidden_size} must be a multiple of 2 × num_heads = {step}, "
                f"as {near}: every head has an even number of its numbers"
            )
        return self


class PromptsConfig(StageConfig):
    """Trajectories to single-turn prompts."""

    max_prompts: CountOrZero = 0
    """Keep at most so many, chosen by a hash of the seed and the prompt's id; 0: all."""


class PPOConfig(StageConfig):
    """Prompts, Q and a policy to a better policy."""

    algorithm: Literal["ppo", "grpo", "rloo", "mpo"] = "ppo"
    """`ppo`: advantages of tokens, by a critic; `grpo`, `rloo`: of completions, against the others
    of their prompt, without a critic; `mpo`: imitates the better ones of the first policy's
    completions, drawn by exp(Q/β)."""
    updates: Count = 16
    """Generation batches, each followed by `epochs` passes over it."""
    completions_per_update: Count = 128
    """Completions sampled for an update."""
    completions_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Completions sampled for each prompt."""
    imitated_per_prompt: Count = 4
    """Draws from a prompt's completions by exp(Q/`kl_coefficient`), which are imitated (`mpo`)."""
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
        if self.algorithm == "mpo":
            if not self.kl_coefficient:
                raise ValueError("mpo needs a kl_coefficient above 0: it is what Q is divided by")
            for name in ("kl_target", "vllm", "report_to", "entropy_coefficient"):
                if getattr(self, name):
                    raise ValueError(f"mpo has no {name}; leave it away, or take another algorithm")
        return self


class ExportConfig(StageConfig):
    """A policy to a folder that others serve."""

    check: bool = True
    """Load the folder in a fresh process with plain transformers and complete one prompt."""
    personas: Personas = []
    """File, or tables, of personas that a server is to draw from, one for each conversation; they
    are written into the folder's settings and card."""


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
