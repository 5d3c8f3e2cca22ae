"""Members, their spread and bound; V̂; other actions in one pass; adapters, precision, memory."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from iterppo.config import FitQConfig
from iterppo.errors import ArtifactError
from iterppo.lm import policy as policies
from iterppo.lm.branches import branch_values
from iterppo.lm.checkpoint import Checkpoint
from iterppo.lm.q_fitting import Target, fit
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.rendering import Decision, Message, Renderer, decisions

MakePolicy = Callable[..., Path]
MakeRow = Callable[..., dict[str, Any]]
MakeState = Callable[..., list[Message]]
WORDS = ("yes", "no", "maybe", "soon", "later")


def random_q(
    folder: Path, *, members: int = 4, loss: str = "bce", max_tokens: int = 128
) -> QFunction:
    settings = QSettings.model_validate(
        {"loss": loss, "max_tokens": max_tokens, "members": members}
    )
    q = QFunction.from_policy(folder, settings)
    torch.manual_seed(5)
    torch.nn.init.normal_(q.heads.members.weight, std=0.2)
    torch.nn.init.normal_(q.heads.state.weight, std=0.2)
    return q


@pytest.fixture
def turns(row: MakeRow, system: str) -> list[Decision]:
    return list(
        decisions(
            [
                row("Hello!", "Which room?", "Which room?", "verbatim"),
                row("Kitchen", "Shall we come by?", "And the budget?", "rejected"),
                row("9500", None, None, "abstained"),
                row("Bye", "Monday is fine.", "Bye", "rejected"),
            ],
            system_prompt=system,
        )
    )


def config(**settings: Any) -> FitQConfig:
    usual = {"learning_rate": 5e-3, "max_steps": 40, "epochs": 30, "tokens_per_batch": 400}
    return FitQConfig.model_validate({**usual, **settings})


@pytest.fixture
def log(row: MakeRow, system: str, renderer: Renderer) -> Callable[..., list[Target]]:
    """Conversations whose return depends on whether the answer was `yes`."""

    def make(number: int, start: int = 0) -> list[Target]:
        made = []
        for n in range(start, start + number):
            actions = [WORDS[n % 5], WORDS[n // 5 % 5]]
            rows = [row(f"Hello {n % 7}", a, a, "verbatim") for a in actions]
            (segment,), _ = renderer.segments(
                list(decisions(rows, system_prompt=system)), max_tokens=128
            )
            made.append(Target(f"c{n}", segment, [float(a == "yes") for a in actions], [1.0] * 2))
        return made

    return make


# --- members ---


def test_an_untrained_ensemble_disagrees_around_a_constant(
    make_policy: MakePolicy, turns: list[Decision]
) -> None:
    q = QFunction.from_policy(make_policy(), QSettings(loss="bce", max_tokens=1000, members=4))
    (segment,), _ = q.renderer.segments(turns, max_tokens=1000)
    (found,) = q.estimates([segment])

    assert [one.q for one in found] == pytest.approx([0.5] * 4, abs=1e-6)
    assert all(one.spread is not None and one.spread > 1e-3 for one in found)


def test_members_disagree_on_turns_that_they_were_not_fitted_on(
    make_policy: MakePolicy, log: Callable[..., list[Target]]
) -> None:
    q = QFunction.from_policy(make_policy(), QSettings(loss="bce", max_tokens=128, members=4))
    fit(q, log(40), config())
    with torch.no_grad():
        unseen = q.to_value(q.outputs([t.segment for t in log(20, 1000)]).q_NM)
    differences = [
        float((unseen[:, a] - unseen[:, b]).abs().mean()) for a in range(4) for b in range(a)
    ]

    assert min(differences) > 1e-3, "two members are one"


def test_members_learn_from_their_own_resamples(
    make_policy: MakePolicy, log: Callable[..., list[Target]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each member sees one half of the log alone; the halves say the opposite.
    def turned(target: Target) -> Target:
        return Target(
            f"x{target.conversation_id}",
            target.segment,
            [1 - g for g in target.returns],
            target.weights,
        )

    monkeypatch.setattr(
        "iterppo.lm.q_fitting.draws_of",
        lambda conversation, members, seed: [2, 0] if conversation[0] == "c" else [0, 2],
    )
    # No conversation is kept out of the gradient, by which the untrained Q could be the best.
    monkeypatch.setattr("iterppo.lm.q_fitting.is_validation", lambda name, _: False)
    q = QFunction.from_policy(make_policy(), QSettings(loss="bce", max_tokens=128, members=2))
    targets = log(40)
    fit(q, [*targets, *map(turned, targets)], config(max_steps=120))
    with torch.no_grad():
        found = q.to_value(q.outputs([t.segment for t in targets]).q_NM)
    said_yes = torch.tensor([g > 0 for t in targets for g in t.returns])

    assert found[said_yes, 0].mean() > found[~said_yes, 0].mean() + 0.3
    assert found[said_yes, 1].mean() < found[~said_yes, 1].mean() - 0.3


def test_the_bound_is_the_mean_less_kappa_times_the_spread(
    make_policy: MakePolicy, make_state: MakeState
) -> None:
    q = random_q(make_policy())
    states, actions = [make_state("Hi"), make_state("Hello!")], ["yes", "no way"]
    mean = q(states, actions)
    q.kappa = 2.0
    bound = q(states, actions)
    with torch.no_grad():
        segments = [q.renderer.pair_ids(s, a) for s, a in zip(states, actions, strict=True)]
        members = []
        for ids in segments:
            hidden = q.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
            members.append(torch.sigmoid(q.heads.members(hidden)).tolist())

    for value, low, each in zip(mean, bound, members, strict=True):
        average = sum(each) / 4
        spread = math.sqrt(sum((one - average) ** 2 for one in each) / 3)
        assert low == pytest.approx(value - 2 * spread, abs=1e-5)
        assert spread > 1e-3


# --- the folder ---


@pytest.mark.parametrize("members", [1, 4])
def test_a_plain_sequence_classifier_gives_the_same_value(
    members: int, make_policy: MakePolicy, make_state: MakeState, tmp_path: Path
) -> None:
    q = random_q(make_policy(), members=members)
    state, action = make_state("Is it done?"), "yes, Monday"
    (expected,) = q([state], [action])
    q.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([q.renderer.pair_ids(state, action)])
    with torch.no_grad():
        logit = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item()

    assert 1 / (1 + math.exp(-logit)) == pytest.approx(expected, abs=1e-6)
    assert tokenizer.vocab_size == q.renderer.tokenizer.vocab_size
    assert not [file for file in tmp_path.iterdir() if file.suffix in (".bin", ".pt", ".pkl")]
    again = QFunction.load(tmp_path)
    (segment,) = [again.renderer.pair_ids(state, action)]
    assert segment == q.renderer.pair_ids(state, action)
    assert again([state], [action]) == [expected]
    assert torch.equal(again.heads.members.weight, q.heads.members.weight)


def test_a_folder_of_before_there_were_heads_is_still_read(
    make_policy: MakePolicy, make_state: MakeState, tmp_path: Path
) -> None:
    q = random_q(make_policy(), members=1)
    q.save(tmp_path)
    (tmp_path / "iterppo_q_heads.safetensors").unlink()
    (tmp_path / "iterppo_q.json").write_text('{"loss": "bce", "max_tokens": 128}')

    assert QFunction.load(tmp_path)([make_state("Hi")], ["yes"]) == q([make_state("Hi")], ["yes"])


@pytest.mark.parametrize("damage", ["gone", "half"])
def test_an_ensemble_whose_heads_are_lost_is_refused_in_a_line(
    damage: str, make_policy: MakePolicy, tmp_path: Path
) -> None:
    random_q(make_policy(), members=4).save(tmp_path)
    heads = tmp_path / "iterppo_q_heads.safetensors"
    content = heads.read_bytes()
    heads.unlink()
    if damage == "half":
        heads.write_bytes(content[: len(content) // 2])

    with pytest.raises(ArtifactError, match=r"iterppo_q_heads.safetensors.*Fit Q again"):
        QFunction.load(tmp_path)


# --- V̂ ---


def test_the_state_only_value_does_not_see_the_action(
    make_policy: MakePolicy, row: MakeRow, system: str
) -> None:
    q = random_q(make_policy())

    def value(action: str, second: str) -> list[tuple[float, float]]:
        rows = [
            row("Hello!", action, action, "verbatim"),
            row("Kitchen", second, second, "verbatim"),
        ]
        (segment,), _ = q.renderer.segments(
            list(decisions(rows, system_prompt=system)), max_tokens=128
        )
        return [(one.q, one.v) for one in q.estimates([segment])[0]]

    (first_q, first_v), (_, second_v) = value("Which room?", "yes")
    (other_q, other_v), (_, after_v) = value("Monday is fine.", "no")

    assert other_v == pytest.approx(first_v, abs=1e-6)
    assert abs(other_q - first_q) > 1e-4
    assert abs(after_v - second_v) > 1e-6, "what was done is part of the next state"


def test_the_state_only_value_is_the_mean_return_of_the_state(
    make_policy: MakePolicy, log: Callable[..., list[Target]]
) -> None:
    q = QFunction.from_policy(make_policy(), QSettings(loss="bce", max_tokens=128))
    targets = log(100)
    fit(q, targets, config(max_steps=120))
    values = [one.v for each in q.estimates([t.segment for t in targets]) for one in each]

    assert values == pytest.approx([0.2] * len(values), abs=0.12)


# --- other actions in one pass ---


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_other_actions_in_one_pass_have_the_values_of_their_pairs(
    family: str,
    make_policy: MakePolicy,
    turns: list[Decision],
    renderer: Renderer,
    tmp_path: Path,
) -> None:
    folder = make_policy() if family == "llama" else gpt2(renderer, tmp_path)
    q = random_q(folder, max_tokens=1000)
    (segment,), _ = q.renderer.segments(turns, max_tokens=1000)
    branches = [
        (end, action) for end in range(4) for action in ("yes", "", "Shall we come by? " * 3, "no")
    ]
    expected = q([turns[end].state for end, _ in branches], [action for _, action in branches])

    assert branch_values(q, [(segment, branches)])[0] == pytest.approx(expected, abs=1e-5)
    assert branch_values(q, [(segment, branches[::-1])])[0] == pytest.approx(
        expected[::-1], abs=1e-5
    )
    assert max(expected) - min(expected) > 1e-3


def gpt2(renderer: Renderer, folder: Path) -> Path:
    """Another family: learned positions, layer norms, biases."""
    torch.manual_seed(0)
    tokenizer = renderer.tokenizer
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=256,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_many_branches_are_as_few(make_policy: MakePolicy, turns: list[Decision]) -> None:
    q = random_q(make_policy(), max_tokens=1000)
    (segment,), _ = q.renderer.segments(turns, max_tokens=1000)
    branches = [(n % 4, f"{WORDS[n % 5]} and then " * (1 + n % 9)) for n in range(120)]
    assert sum(len(q.renderer.turn_ids(action)) for _, action in branches) > 2 * 512

    found = branch_values(q, [(segment, branches)])[0]
    assert found == pytest.approx(
        [branch_values(q, [(segment, [one])])[0][0] for one in branches], abs=1e-5
    )


@pytest.mark.parametrize("tokens_per_batch", [1, 400, 8192])
def test_conversations_that_share_a_batch_do_not_see_each_other(
    tokens_per_batch: int, make_policy: MakePolicy, turns: list[Decision]
) -> None:
    q = random_q(make_policy(), max_tokens=1000)
    requests = []
    for length in (4, 1, 3, 2):
        (segment,), _ = q.renderer.segments(turns[:length], max_tokens=1000)
        asked = [(n % length, f"{WORDS[n]} " * (1 + n)) for n in range(5)]
        requests.append((segment, asked))
    together = branch_values(q, requests, tokens_per_batch=tokens_per_batch)

    for request, found in zip(requests, together, strict=True):
        assert found == pytest.approx(branch_values(q, [request])[0], abs=1e-5)
        pairs = [(turns[end].state, action) for end, action in request[1]]
        assert found == pytest.approx(q(*map(list, zip(*pairs, strict=True))), abs=1e-5)


def test_a_branch_beyond_the_context_has_no_value(
    make_policy: MakePolicy, turns: list[Decision]
) -> None:
    q = random_q(make_policy(), max_tokens=60)
    segments, _ = q.renderer.segments(turns, max_tokens=60)
    found = branch_values(q, [(segments[0], [(0, "yes"), (0, "no " * 60), (0, "no")])])[0]

    assert [math.isnan(value) for value in found] == [False, True, False]
    assert branch_values(q, [(segments[0], []), (segments[0], [(0, "yes")])])[0] == []


# --- any model, any size ---


def values_after(
    folder: Path, targets: Sequence[Target], settings: FitQConfig
) -> tuple[QFunction, list[float]]:
    q = QFunction.from_policy(folder, QSettings(loss="bce", max_tokens=128, members=2))
    q.prepare(settings)
    fit(q, targets, settings)
    q.finish()
    return q, [v for each in q.segment_values([t.segment for t in targets]) for v in each]


def test_adapters_learn_and_leave_a_plain_model_behind(
    make_policy: MakePolicy, log: Callable[..., list[Target]], tmp_path: Path
) -> None:
    folder, targets = make_policy(), log(50)
    before = {n: v.clone() for n, v in policies.load_model(str(folder)).state_dict().items()}
    q, values = values_after(
        folder, targets, config(lora_rank=4, max_steps=120, learning_rate=1e-2)
    )
    q.save(tmp_path)
    paid = [g for t in targets for g in t.returns]
    right = [v for v, g in zip(values, paid, strict=True) if g == 1]
    wrong = [v for v, g in zip(values, paid, strict=True) if g == 0]
    loaded = QFunction.load(tmp_path)
    again = [v for each in loaded.segment_values([t.segment for t in targets]) for v in each]

    assert sum(right) / len(right) > sum(wrong) / len(wrong) + 0.2
    assert again == pytest.approx(values, abs=1e-5)
    weights = dict(loaded.model.named_parameters())
    assert not [name for name in weights if "lora" in name]
    changed = {
        name.split(".")[-2]
        for name, value in weights.items()
        if name in before and not torch.equal(value, before[name])
    }
    assert changed >= {"q_proj", "v_proj", "up_proj"}
    assert "embed_tokens" not in changed, "only adapters were trained"


def test_computing_activations_again_changes_nothing(
    make_policy: MakePolicy, log: Callable[..., list[Target]]
) -> None:
    folder, targets = make_policy(), log(40)
    _, plain = values_after(folder, targets, config(max_steps=60))
    _, again = values_after(folder, targets, config(max_steps=60, gradient_checkpointing=True))

    assert max(plain) - min(plain) > 0.1, "something was learned"
    assert again == pytest.approx(plain, abs=1e-4)


def test_bfloat16_computes_in_it_and_keeps_float32(
    make_policy: MakePolicy, log: Callable[..., list[Target]]
) -> None:
    folder, targets = make_policy(), log(40)
    _, plain = values_after(folder, targets, config(max_steps=60))
    q, rough = values_after(folder, targets, config(max_steps=60, bf16=True))

    assert max(plain) - min(plain) > 0.1, "something was learned"
    assert rough != plain
    assert rough == pytest.approx(plain, abs=0.15)
    assert {p.dtype for p in q.parameters()} == {torch.float32}


# --- killed in the middle ---


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_at", [9, 14, 23, 31], ids=["mc", "sweep 1", "sweep 2", "the last"])
def test_a_killed_fit_goes_on_to_the_same_q(
    kill_at: int,
    make_policy: MakePolicy,
    log: Callable[..., list[Target]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = config(max_steps=10, sweeps=3, sweep_epochs=20, checkpoint_steps=3, method="sarsa")
    targets = log(30)
    steps: list[int] = []

    def fitted(checkpoint: Checkpoint | None) -> tuple[list[float], Any]:
        q = QFunction.from_policy(make_policy(), QSettings(loss="bce", max_tokens=128, members=2))

        def sweep() -> list[Target]:
            values = q.estimates([t.segment for t in targets])
            return [
                Target(
                    t.conversation_id,
                    t.segment,
                    [0.5 * one.q for one in found],
                    t.weights,
                    [[0.5 * value for value in one.members] for one in found],
                )
                for t, found in zip(targets, values, strict=True)
            ]

        made = fit(q, targets, settings, sweep=sweep, checkpoint=checkpoint)
        values = q.segment_values([t.segment for t in targets])
        return [v for each in values for v in each], made

    whole, made = fitted(None)
    loss = QFunction.outputs

    def counted(self: QFunction, segments: Any) -> Any:
        if torch.is_grad_enabled():
            steps.append(1)
            if len(steps) == kill_at:
                raise Killed
        return loss(self, segments)

    checkpoint = Checkpoint(tmp_path / "state", key="k", every=3)
    with monkeypatch.context() as patch:
        patch.setattr(QFunction, "outputs", counted)
        with pytest.raises(Killed):
            fitted(checkpoint)
    again, remade = fitted(checkpoint)

    assert again == pytest.approx(whole, abs=1e-6)
    assert remade.losses == pytest.approx(made.losses, abs=1e-6)
    assert remade.validation == pytest.approx(made.validation, abs=1e-6)
    assert remade.sweeps == pytest.approx(made.sweeps, abs=1e-6)
    assert remade.best_epoch == made.best_epoch
    assert len(made.sweeps) == 3


@pytest.mark.parametrize("kappa", [0.0, 1.5])
def test_a_state_that_is_read_once_for_several_actions_gives_what_each_pair_gives(
    make_policy: MakePolicy, turns: list[Decision], kappa: float
) -> None:
    q = random_q(make_policy())
    q.kappa = kappa
    short, long = turns[1].state, turns[3].state
    asked = [(short, "yes"), (long, "no"), (short, ""), (long, "maybe soon"), (short, "yes")]
    apart = [q([state], [action])[0] for state, action in asked]

    assert q(*zip(*asked, strict=True)) == pytest.approx(apart, abs=1e-5)
    assert len(set(apart)) == 4


def test_several_actions_of_a_state_that_must_be_cut_are_read_one_by_one(
    make_policy: MakePolicy, turns: list[Decision]
) -> None:
    long = turns[3].state
    whole = len(random_q(make_policy()).renderer.prompt_ids(long))
    q = random_q(make_policy(), max_tokens=whole - 1)
    together = q([long, long], ["yes", "no"])

    assert together == pytest.approx([q([long], [word])[0] for word in ("yes", "no")], abs=1e-6)
