"""What is read of a pass over completions, and what it teaches, is what one pass each would say."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from iterppo.lm.completion_scoring import score_completions
from iterppo.lm.critic import HEAD, Critic
from iterppo.lm.shared_prompts import can_share, lay_out

LENGTHS = ((3, 2), (6, 5), (3, 1), (6, 5), (4, 4), (6, 1))
"""Prompt and completion; those of one length share the prompt."""
T = 5


def model_of(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 64,
    }
    if kind == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """As TRL pads it; the padding holds what is surely wrong."""
    generator = torch.Generator().manual_seed(1)
    prompts = {n: torch.randint(1, 50, (n,), generator=generator) for n, _ in LENGTHS}
    ids, seen = torch.full((len(LENGTHS), 6 + T), 49), torch.zeros(len(LENGTHS), 6 + T).long()
    for row, (prompt, written) in enumerate(LENGTHS):
        ids[row, 6 - prompt : 6] = prompts[prompt]
        ids[row, 6 : 6 + written] = torch.randint(1, 50, (written,), generator=generator)
        seen[row, 6 - prompt : 6 + written] = 1
    return ids, seen


def one_by_one(model: Any, ids: torch.Tensor, seen: torch.Tensor, temperature: float) -> Any:
    """Log-probabilities, entropies and values of each completion, each by a pass of its own."""
    found = []
    for row, (prompt, written) in enumerate(LENGTHS):
        whole = ids[row][seen[row].bool()].unsqueeze(0)
        output = model(input_ids=whole, output_hidden_states=True)
        logprob = (output.logits[0] / temperature).log_softmax(-1)[prompt - 1 : -1]
        value = getattr(model, HEAD)(output.hidden_states[-1])[0, prompt - 1 :, 0]
        chosen = logprob.gather(1, whole[0, prompt:].unsqueeze(1)).squeeze(1)
        found.append((chosen, -(logprob.exp() * logprob).sum(-1), value))
        assert len(chosen) == written
    return found


KINDS = [
    pytest.param("llama", {}, True, id="llama"),
    pytest.param("qwen3", {"head_dim": 8}, True, id="qwen3"),
    pytest.param("mistral", {"sliding_window": 4}, False, id="a sliding window"),
    pytest.param("gpt2", {}, False, id="learned positions"),
    pytest.param("llama", {"attn_implementation": "eager"}, False, id="another attention"),
]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("kind", "changes", "shares"), KINDS)
def test_scores_and_gradients_are_those_of_one_pass_each(
    kind: str, changes: dict[str, Any], shares: bool, temperature: float
) -> None:
    model = model_of(kind, **changes)
    critic = Critic(model)
    torch.nn.init.normal_(getattr(model, HEAD).weight)
    ids, seen = batch()
    parameters = list(model.parameters())
    assert can_share(model.config) is shares

    scored = score_completions(
        model, critic, ids, seen, T, temperature=temperature, entropy=True, learn_entropy=True
    )
    expected = one_by_one(model, ids, seen, temperature)
    weight_BT = torch.linspace(-1, 1, len(LENGTHS) * T).view(-1, T)
    assert scored.entropy_BT is not None
    ours = (scored.logprob_BT * weight_BT + 0.3 * scored.entropy_BT * weight_BT).sum()
    ours = ours + (scored.value_BT1[:, :-1] * weight_BT * seen[:, -T:]).sum()
    theirs = torch.zeros(())
    for row, (logprob, entropy, value) in enumerate(expected):
        written = len(logprob)
        for found, wanted in (
            (scored.logprob_BT[row], logprob),
            (scored.entropy_BT[row], entropy),
            (scored.value_BT1[row, : T + 1], value),
        ):
            torch.testing.assert_close(found[: len(wanted)], wanted, atol=2e-5, rtol=1e-4)
            assert not found[len(wanted) :].any(), "nothing behind the last"
        weight = weight_BT[row, :written]
        theirs = theirs + ((logprob + 0.3 * entropy + value[:-1]) * weight).sum()
    gradients = zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    )
    for found, wanted in gradients:
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * scale)


def test_an_entropy_that_is_only_told_teaches_nothing() -> None:
    model = model_of("llama")
    ids, seen = batch()
    scored = score_completions(
        model, Critic(model), ids, seen, T, temperature=1.0, entropy=True, learn_entropy=False
    )

    assert scored.logprob_BT.requires_grad
    assert scored.entropy_BT is not None
    assert not scored.entropy_BT.requires_grad


def test_another_models_pass_has_no_values() -> None:
    model, other = model_of("llama"), model_of("qwen2")
    critic = Critic(model)
    torch.nn.init.normal_(getattr(model, HEAD).weight)

    assert not score_completions(other, critic, *batch(), T, temperature=1.0).value_BT1.any()


def test_completions_of_one_prompt_share_a_row() -> None:
    ids = torch.tensor([[0, 7, 8, 1, 2], [5, 6, 7, 3, 0], [0, 7, 8, 4, 0]])
    seen = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 1, 0]])
    rows = lay_out(ids, seen, 2, share=True)
    yes, no = True, False

    assert rows.ids_RL.tolist() == [[7, 8, 1, 2, 4], [5, 6, 7, 3, 0]]
    assert rows.position_RL is not None
    assert rows.position_RL.tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 3, 0]]
    assert (rows.row_B, rows.read_B) == ([0, 1, 0], [[1, 2, 3], [2, 3], [1, 4]])
    assert rows.read_in_rows() == [[1, 2, 3, 1, 4], [2, 3]]
    assert rows.mask_R1LL is not None
    assert rows.mask_R1LL[0, 0].tolist() == [
        [yes, no, no, no, no],
        [yes, yes, no, no, no],
        [yes, yes, yes, no, no],
        [yes, yes, yes, yes, no],
        [yes, yes, no, no, yes],
    ]


def test_without_a_shared_prompt_there_is_no_mask() -> None:
    ids = torch.tensor([[0, 7, 8, 1, 2], [5, 6, 7, 3, 0]])
    seen = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]])

    for share in (True, False):
        rows = lay_out(ids, seen, 2, share=share)
        assert rows.mask_R1LL is None
        assert rows.position_RL is None
    apart = lay_out(ids[[0, 0]], seen[[0, 0]], 2, share=False)
    assert apart.mask_R1LL is None
    assert apart.ids_RL.tolist() == [[7, 8, 1, 2]] * 2
