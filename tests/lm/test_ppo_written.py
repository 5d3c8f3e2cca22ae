"""What PPO writes: samples that follow their contract, and a plain language model."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from iterppo.artifact import ArtifactWriter, open_artifact
from iterppo.lm import policy as policies
from iterppo.lm.critic import critic_of
from iterppo.lm.policy import load_policy
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.rendering import Message, Renderer
from iterppo.lm.scratch import build_model, train_tokenizer
from tests.lm.ppo_runs import Start, config

MakeState = Callable[..., list[Message]]


def test_samples_follow_the_contract(
    start: Start, prompts: list[dict[str, Any]], tmp_path: Path, renderer: Renderer
) -> None:
    with ArtifactWriter(
        tmp_path / "policy", kind="policy", stage="ppo", config=config(), inputs={}
    ) as writer:
        start(updates=2, kl_coefficient=0.1, on_samples=writer.write).train()
    rows = list(open_artifact(tmp_path / "policy", "policy").rows())

    assert len(rows) == 32
    assert Counter(row["step"] for row in rows) == {0: 16, 2: 16}
    known = {row["prompt_id"] for row in prompts}
    for step in (0, 2):
        per_prompt = Counter(row["prompt_id"] for row in rows if row["step"] == step)
        assert set(per_prompt) <= known
        assert all(number % 2 == 0 for number in per_prompt.values())
    for row in rows:
        text = renderer.tokenizer.decode(row["tokens"], skip_special_tokens=True).strip()
        assert row["completion"] == text
        assert row["q"] == float(text == "yes")
        assert row["kl"] == pytest.approx(0, abs=1e-5) or row["step"] > 0


def test_what_is_exported_is_a_plain_language_model(
    start: Start, tmp_path: Path, make_state: MakeState, renderer: Renderer
) -> None:
    run = start(updates=2, kl_coefficient=0.1)
    assert hasattr(run.policy.model, "value_head")
    run.train()
    weights = run.trainer.finish()
    head = critic_of(weights)
    settings = run.policy.settings.model_dump(exclude={"version"})
    improved = policies.with_weights(
        load_policy(Path(run.policy.model.config._name_or_path)), weights
    )
    saved = policies.save_policy(
        tmp_path / "model", model=improved.model, renderer=renderer, settings=settings
    )
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )

    assert sorted(head) == ["bias", "weight"]
    assert head["weight"].shape == (1, 32)
    assert head["weight"].abs().sum() > 0
    assert {key: list(found) for key, found in report.items() if found} == {}
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as tensors:
        assert not [name for name in tensors.keys() if "head" in name and "lm_head" not in name]  # noqa: SIM118
    ids = torch.tensor([renderer.prompt_ids(make_state("Hello!"))])
    trained, fresh = run.policy.model.eval()(input_ids=ids), loaded.eval()(input_ids=ids)
    assert torch.allclose(trained.logits, fresh.logits, atol=1e-6)
    assert saved.version != run.policy.settings.version


def test_plain_transformers_draw_from_the_whole_distribution(
    make_policy: Callable[..., Path], tmp_path: Path
) -> None:
    policy = load_policy(make_policy(max_new_tokens=1))  # of random weights: nearly uniform
    policies.save_policy(
        tmp_path,
        model=policy.model,
        renderer=policy.renderer,
        settings=policy.settings.model_dump(exclude={"version"}),
    )
    served: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt_BS = torch.ones(4000, 1, dtype=torch.long)
    torch.manual_seed(0)
    written_BS = served.generate(prompt_BS, attention_mask=torch.ones_like(prompt_BS))

    assert len(written_BS[:, 1].unique()) == served.config.vocab_size


def test_q_as_the_reward_reads_text_whatever_the_policys_tokenizer(
    start: Start, prompts: list[dict[str, Any]], tmp_path: Path
) -> None:
    own = Renderer(train_tokenizer(["other words entirely, yes and no"] * 5, vocab_size=300))
    torch.manual_seed(3)
    model = build_model(own.tokenizer, hidden_size=16, num_layers=1, num_heads=2, context_tokens=64)
    settings = {
        "system_prompt": "",
        "max_prompt_tokens": 1,
        "max_new_tokens": 1,
        "temperature": 1.0,
    }
    policies.save_policy(tmp_path / "other", model=model, renderer=own, settings=settings)
    q = QFunction.from_policy(tmp_path / "other", QSettings(loss="bce", max_tokens=200))
    torch.nn.init.normal_(q.heads.members.weight)
    run = start(reward=q).train()
    by_id = {row["prompt_id"]: row["prompt"] for row in prompts}

    states = [by_id[row["prompt_id"]] for row in run.samples]
    expected = q(states, [row["completion"] for row in run.samples])
    assert [row["q"] for row in run.samples] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) > 4
