"""π_new/π_old starts at 1: sampling and training agree about what was drawn.

Shapes: B completions, T tokens.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from trl import GRPOTrainer

from iterppo.lm.policy import load_policy
from iterppo.lm.rendering import Renderer
from tests.lm.ppo_runs import KNOWN, Start, means, short_is_good

MakePolicy = Callable[..., Path]

SHAPES = [
    pytest.param({"updates": 2, "minibatches": 2, "microbatch_size": 4, "epochs": 2}, id="usual"),
    pytest.param({"updates": 2, "minibatches": 1, "microbatch_size": 16}, id="one step an update"),
    pytest.param({"updates": 2, "minibatches": 1, "microbatch_size": 4}, id="one accumulated step"),
    pytest.param({"updates": 2, "minibatches": 4, "microbatch_size": 2}, id="small"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_before_an_update_the_ratio_is_one(
    shape: dict[str, int], start: Start, make_policy: MakePolicy
) -> None:
    folder = make_policy(steps=100, temperature=0.7)
    run = start(folder=folder, kl_coefficient=0.1, learning_rate=1e-2, **shape)
    ratios = []
    check = run.trainer._assert_ratio_is_one

    def noted(new_BT: Any, old_BT: Any, mask_BT: Any) -> None:
        assert new_BT.requires_grad
        ratios.append(((new_BT - old_BT).abs() * mask_BT).max().item())
        check(new_BT, old_BT, mask_BT)

    run.trainer._assert_ratio_is_one = noted  # type: ignore[method-assign]
    run.train()

    assert len(ratios) >= shape["updates"], "every update is checked"
    assert run.trainer.largest_first_log_ratio == max(ratios)
    assert max(ratios) <= 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_dropout_in_a_models_configuration_does_not_reach_the_ratio(
    shape: dict[str, int], start: Start, make_policy: MakePolicy
) -> None:
    folder = make_policy(steps=100, attention_dropout=0.5)
    assert load_policy(folder).model.config.attention_dropout == 0.5
    run = start(folder=folder, kl_coefficient=0.1, **shape).train()

    assert run.trainer.largest_first_log_ratio <= 1e-4


def test_adapters_and_their_dropout_do_not_reach_the_ratio(start: Start) -> None:
    def add_adapters(model: Any) -> None:
        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=4, lora_dropout=0.5))

    run = start(change=add_adapters, updates=2, kl_coefficient=0.1, learning_rate=3e-2, epochs=2)
    begun = {name: value.clone() for name, value in run.policy.model.named_parameters()}
    run.train()
    moved = {
        name
        for name, value in run.policy.model.named_parameters()
        if not torch.equal(value, begun[name])
    }

    assert run.trainer.largest_first_log_ratio <= 1e-4
    assert {name for name in begun if "lora_B" in name} <= moved
    assert all("lora" in name or "value_head" in name for name in moved)
    # The reference is the policy of the start: at no distance at first, and at some later.
    assert max(abs(row["kl"]) for row in run.samples if row["step"] == 0) < 1e-4
    assert max(abs(row["kl"]) for row in run.samples if row["step"] > 0) > 1e-2


def test_prompts_of_one_update_differ_in_length(
    prompts: list[dict[str, Any]], renderer: Renderer
) -> None:
    assert len({len(renderer.prompt_ids(row["prompt"])) for row in prompts}) == len(prompts) == 4


@pytest.mark.parametrize("update", [0, 1], ids=["at once", "in the second update"])
@pytest.mark.parametrize("error", [0.01, math.nan])
def test_a_ratio_that_is_not_one_stops_the_training(
    update: int, error: float, start: Start
) -> None:
    run = start(updates=2)
    generate = run.trainer._generate_and_score_completions
    made: list[Any] = []

    def distorted(inputs: Any) -> Any:
        batch = generate(inputs)
        if len(made) == update:
            batch["old_per_token_logps"] = batch["old_per_token_logps"] + error
        made.append(batch)
        return batch

    run.trainer._generate_and_score_completions = distorted  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="sampling and training disagree"):
        run.train()
    assert len(made) == update + 1


def test_another_temperature_in_training_than_in_sampling_stops_the_training(start: Start) -> None:
    run = start()
    compute = run.trainer._compute_loss

    def colder(model: Any, inputs: Any) -> Any:
        run.trainer.temperature = 0.5
        return compute(model, inputs)

    run.trainer._compute_loss = colder  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="dropout, padding or temperature"):
        run.train()


def test_what_is_drawn_is_drawn_from_the_whole_distribution(
    start: Start, make_policy: MakePolicy
) -> None:
    # Were improbable tokens never drawn, the ratio and the KL would be those of another policy.
    temperature = 2.0
    folder = make_policy(steps=30, temperature=temperature)
    run = start(folder=folder, completions_per_update=128, microbatch_size=32).watch().train()
    (update,) = run.updates
    drawn, expected, variance = Counter[str](), Counter[str](), Counter[str]()
    for b, row in enumerate(run.samples):
        prompt = update.batch["prompt_ids"][b][update.batch["prompt_mask"][b].bool()].tolist()
        with torch.no_grad():
            logits_TV = update.model(input_ids=torch.tensor([prompt + row["tokens"]])).logits[0]
        probability_TV = (logits_TV[len(prompt) - 1 : -1] / temperature).softmax(-1)
        sorted_TV, order_TV = probability_TV.sort(descending=True)
        rank_T = (order_TV == torch.tensor(row["tokens"]).unsqueeze(1)).int().argmax(1)
        before_TV = sorted_TV.cumsum(1) - sorted_TV
        tails = {
            "beyond the likeliest 50": torch.arange(sorted_TV.shape[1]).expand_as(sorted_TV) >= 50,
            "beyond nine tenths": before_TV >= 0.9,
            "less than a tenth of the likeliest": sorted_TV < 0.1 * sorted_TV[:, :1],
        }
        for name, tail_TV in tails.items():
            mass_T = (sorted_TV * tail_TV).sum(1)
            drawn[name] += int(tail_TV.gather(1, rank_T.unsqueeze(1)).sum())
            expected[name] += mass_T.sum().item()
            variance[name] += (mass_T * (1 - mass_T)).sum().item()

    for name in drawn:
        spread = math.sqrt(variance[name])
        assert expected[name] > 5 * spread, name
        assert abs(drawn[name] - expected[name]) < 4 * spread, name


def test_log_probabilities_are_those_of_the_librarys_own_pass(
    start: Start, make_policy: MakePolicy
) -> None:
    trainer = start(folder=make_policy(steps=40, temperature=0.7)).trainer
    ids_BS = torch.randint(5, 30, (3, 12))
    seen_BS = torch.ones_like(ids_BS)
    seen_BS[1, :4] = 0
    with torch.no_grad():
        theirs = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, trainer.model, ids_BS, seen_BS, 5, compute_entropy=True
        )
        ours = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids_BS, seen_BS, 5, compute_entropy=True
        )

    for their, our in zip(theirs[:2], ours[:2], strict=True):
        torch.testing.assert_close(our, their, atol=1e-5, rtol=1e-5)


# --- what sampling has seen already ---


@pytest.mark.parametrize("max_new_tokens", [3, 6], ids=["truncated", "mostly ended"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_sampling_saw_is_what_a_pass_would_say(
    shape: dict[str, int], max_new_tokens: int, start: Start, make_policy: MakePolicy
) -> None:
    folder = make_policy(steps=40, temperature=0.8, max_new_tokens=max_new_tokens)
    run = start(folder=folder, reward=short_is_good, kl_coefficient=0.1, **shape)
    trainer = run.trainer
    old_pass = trainer._old_pass
    compared = []

    def both(batch: dict[str, Any]) -> Any:
        seen = old_pass(batch)
        trainer._sampled, asked = None, dict(batch)
        asked.pop("old_per_token_logps", None)
        said = old_pass(asked)
        mask_BT = batch["completion_mask"].bool()
        truncated_B = mask_BT.all(1) & (
            batch["completion_ids"][:, -1] != run.policy.renderer.eos_id
        )
        read_BT1 = torch.cat([mask_BT, truncated_B.unsqueeze(1)], dim=1)
        compared.append(int(truncated_B.sum()))
        assert seen is not said
        torch.testing.assert_close(
            seen.logprob_BT[mask_BT], said.logprob_BT[mask_BT], atol=2e-5, rtol=0
        )
        torch.testing.assert_close(
            seen.value_BT1[read_BT1], said.value_BT1[read_BT1], atol=2e-5, rtol=0
        )
        assert seen.value_BT1.abs().sum() > 0
        return seen

    trainer._old_pass = both  # type: ignore[method-assign]
    run.train()
    assert len(compared) == shape["updates"]
    assert max_new_tokens == 6 or sum(compared) > 0


def test_sampling_by_the_library_learns_as_well(start: Start) -> None:
    run = start(updates=14, generation="generate", **KNOWN)
    run.train()

    assert run.trainer._sampled is None
    assert statistics.median(means(run)[-3:]) > 0.9
    assert run.trainer.largest_first_log_ratio <= 1e-4


def test_half_precision_computes_the_old_log_probabilities_anew(start: Start) -> None:
    run = start()
    run.policy.model.to(torch.bfloat16)
    with torch.no_grad():
        ids = [[5, 6, 7], [8, 9]]
        completions, _ = run.trainer._generate_single_turn(ids, None, {}, 2)

    assert len(completions) == 2
    assert run.trainer._sampled is None
