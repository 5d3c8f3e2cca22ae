"""TRL's GRPOTrainer with our sampling and our passes over completions.

Shapes: B completions, S positions of prompt and completion together, T completion tokens. Values
have T + 1 columns: column t stands before completion token t.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessorList
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from iterppo.config import PPOConfig
from iterppo.lm.completion_scoring import plain_model, score_completions
from iterppo.lm.critic import Critic
from iterppo.lm.generation import draw_tokens, left_pad
from iterppo.lm.rendering import Renderer
from iterppo.lm.row_sampling import ChooseByUniforms
from iterppo.lm.training import token_batches

TOKENS_PER_BATCH = 16_384
"""Prompt and completion tokens, padding included, that are sampled together."""


class Pass(NamedTuple):
    """What a pass over completions gives to a learner."""

    logprob_BT: torch.Tensor
    value_BT1: torch.Tensor
    entropy_BT: torch.Tensor | None = None


class CompletionTrainer(GRPOTrainer):
    """Samples and scores; what is learned from it is a subclass's business.

    A subclass sets `config`, `renderer` and `critic` before this is initialised.
    """

    config: PPOConfig
    renderer: Renderer
    critic: Critic
    _passes: list[Pass]
    """Of the policy, in the order in which they were asked for; their owner empties the list."""
    _sampled: Pass | None = None
    """What sampling has seen of the completions that are being worked on."""
    _trl_asks_for_old = False

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Text of a log becomes tokens by the renderer alone, which lets nobody forge a control
        token."""
        return [self.renderer.prompt_ids(prompt) for prompt in prompts], None, {}

    # --- sampling

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], Any]:
        """Completions, by a loop of our own or by the library's: the same ones."""
        self._sampled = None
        if self.use_vllm:
            found: tuple[list[list[int]], Any] = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
            return found
        # Greedy: `ChooseByUniforms` leaves one token to choose from.
        greedy = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs={**self.generation_kwargs, **greedy},
            ) as model,
            torch.no_grad(),
        ):
            if self.config.generation == "generate":
                return self._generate_by_library(model, prompt_ids), None
            completions, sampled = self._draw(plain_model(model), prompt_ids)
            dtypes = {parameter.dtype for parameter in model.parameters()}
        # Sampling reads token by token, with the keys and values that it kept; learning reads all
        # at once. In single precision the two differ by rounding, in half precision by percents.
        if dtypes == {torch.float32} and self.accelerator.mixed_precision == "no":
            self._sampled = sampled
        return completions, None

    def _uniforms(self) -> torch.Tensor:
        """Numbers (B, T) in [0, 1) that the tokens of this process's rows are sampled by."""
        raise NotImplementedError

    def _padded(self, prompt_ids: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return left_pad(
            prompt_ids, pad_id=self._tokenizer.pad_token_id, device=self.accelerator.device
        )

    def _generate_by_library(self, model: Any, prompt_ids: list[list[int]]) -> list[list[int]]:
        ids_BS, seen_BS = self._padded(prompt_ids)
        S = ids_BS.shape[1]
        choose = ChooseByUniforms(self._uniforms(), temperature=self.temperature, prompt_tokens=S)
        written_BU = model.generate(
            input_ids=ids_BS,
            attention_mask=seen_BS,
            logits_processor=LogitsProcessorList([choose]),
        )[:, S:]
        ended_BU = torch.isin(written_BU, torch.tensor(self.eos_token_ids, device=ids_BS.device))
        # Up to the first end of a turn, which counts.
        kept_BU = (ended_BU.cumsum(1) - ended_BU.int()) == 0
        return [row[kept].tolist() for row, kept in zip(written_BU, kept_BU, strict=True)]

    def _draw(self, model: Any, prompt_ids: list[list[int]]) -> tuple[list[list[int]], Pass | None]:
        """Completions, and what sampling has seen of them; None where there is more to see: a
        critic with a backbone of its own keeps no keys and values."""
        B, T = len(prompt_ids), self.max_completion_length
        device = self.accelerator.device
        uniform_BT = self._uniforms().to(device)
        logprob_BT = torch.zeros(B, T, device=device)
        value_BT1 = torch.zeros(B, T + 1, device=device)
        completions: list[list[int]] = [[] for _ in prompt_ids]
        for batch in token_batches(
            [len(prompt) + T for prompt in prompt_ids], tokens_per_batch=TOKENS_PER_BATCH, seed=None
        ):
            collecting = nullcontext() if self.critic.separate else self.critic.collecting()
            with collecting as collected:
                drawn = draw_tokens(
                    model,
                    *self._padded([prompt_ids[row] for row in batch]),
                    temperature=self.temperature,
                    max_new_tokens=T,
                    eos_id=self.renderer.eos_id,
                    uniform_BT=uniform_BT[batch],
                    beside=None if collected is None else partial(_newest, collected),
                )
            for row, tokens in zip(batch, drawn.tokens, strict=True):
                completions[row] = tokens
            logprob_BT[batch] = drawn.logprob_BT
            if drawn.beside_BT1 is not None:
                value_BT1[batch] = drawn.beside_BT1
        if self.critic.separate:
            return completions, None
        longest = max(len(tokens) for tokens in completions)
        return completions, Pass(logprob_BT[:, :longest], value_BT1[:, : longest + 1])

    # --- scoring

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL asks for the log-probabilities at sampling first, unless one step follows each
        # generation.
        steps = self.args.steps_per_generation * self.num_iterations
        self._trl_asks_for_old = self.args.gradient_accumulation_steps % steps != 0
        self._passes = []
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return batch

    def _old_pass(self, batch: dict[str, Any]) -> Pass:
        """Log-probabilities and values of the policy that a batch was sampled from."""
        if self._sampled is not None:
            return self._sampled
        if "old_per_token_logps" in batch:
            # The first pass is the policy's; with adapters a second one, adapters off, is the
            # reference's.
            return self._passes[0]
        with torch.no_grad():
            self._passes = []
            self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].shape[1],
                self.args.per_device_train_batch_size,
            )
        return self._passes[0]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: Any = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> Any:
        """What TRL asks for, with values along the way."""
        if self._trl_asks_for_old:
            self._trl_asks_for_old = False
            if self._sampled is not None:
                return self._sampled.logprob_BT, None, None
        # TRL's fused head scores every position of the prompts as well where there is no Triton.
        score = self._score_by_trl if input_ids.device.type != "cpu" else self._score_by_us
        size = batch_size or len(input_ids)
        # Rows of one length share a pass, hence little padding.
        order_B = attention_mask.sum(dim=1).argsort(stable=True)
        if size >= len(input_ids):
            order_B = torch.arange(len(input_ids), device=input_ids.device)
        found = [
            score(
                model,
                input_ids[rows],
                attention_mask[rows],
                logits_to_keep,
                compute_entropy,
                kwargs,
            )
            for rows in order_B.split(size)
        ]
        back_B = order_B.argsort()
        logprob_BT, entropy_BT, value_BT1 = (
            None if parts[0] is None else torch.cat(parts)[back_B]
            for parts in zip(*found, strict=True)
        )
        if logprob_BT is not None and value_BT1 is not None and model is not self.ref_model:
            self._passes.append(Pass(logprob_BT, value_BT1, entropy_BT))
        return logprob_BT, entropy_BT, None

    def _score_by_us(
        self,
        model: Any,
        ids_BS: torch.Tensor,
        seen_BS: torch.Tensor,
        num_tokens: int,
        entropy: bool,
        _: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        return score_completions(
            model,
            self.critic,
            ids_BS,
            seen_BS,
            num_tokens,
            temperature=self.temperature,
            entropy=entropy,
            learn_entropy=self.config.entropy_coefficient > 0,
        )

    def _score_by_trl(
        self,
        model: Any,
        ids_BS: torch.Tensor,
        seen_BS: torch.Tensor,
        num_tokens: int,
        entropy: bool,
        more: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        first = int(seen_BS.any(dim=0).int().argmax())  # the prompt is padded on the left
        with self.critic.collecting() as collected:
            logprob_BT, entropy_BT, _ = super()._get_per_token_logps_and_entropies(
                model,
                ids_BS[:, first:],
                seen_BS[:, first:],
                num_tokens,
                compute_entropy=entropy,
                **more,
            )
        value_BT1 = collected[0][:, -(num_tokens + 1) :] if collected else None
        return logprob_BT, entropy_BT, value_BT1


def _newest(collected: list[torch.Tensor]) -> torch.Tensor:
    """Value at the last position of every row of the forward that was just made."""
    return collected.pop()[:, -1]
