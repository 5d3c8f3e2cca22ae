"""Both sides of the benchmark are paid the same for the same completion."""

from pathlib import Path

import pytest
import torch

from benchmarks.ppo_ours import TextReward, configuration
from benchmarks.ppo_task import GOOD_SHARE, TASK, Task, ToyReward, read_task, write
from benchmarks.ppo_vs_trl import LARGE, SMALL, Size, make_task, signs_tokenizer
from iterppo.lm.rendering import Renderer
from iterppo.lm.scratch import CONTROL_TOKENS


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    size = Size("tiny", 320, 16, 1, 2, 0, SMALL.settings)
    return make_task(tmp_path_factory.mktemp("task") / "policy", size, threads=1)


def test_a_text_and_its_tokens_are_the_same_thing() -> None:
    tokenizer = signs_tokenizer(600)
    ids = list(range(len(CONTROL_TOKENS), 600))
    text = tokenizer.decode(ids)

    assert len(text) == len(ids)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids


def test_a_text_is_paid_what_its_tokens_are_paid(task: Task) -> None:
    renderer = Renderer(signs_tokenizer(320))
    module = ToyReward(task, vocab_size=320, num_control=len(CONTROL_TOKENS))
    completions = [[100], [100, 101, 103], [99, 104, 108, 200, 100], []]
    texts = [renderer.tokenizer.decode(ids) for ids in completions]
    paid = TextReward(module, renderer)(task.states[:4], texts)

    good = [sum(id_ % GOOD_SHARE == 0 for id_ in ids) / max(1, len(ids)) for ids in completions]
    assert paid == pytest.approx(good)
    # As the peer reads it: padded on the left and on the right, at the last token.
    rows = [[*task.prompt_ids[n], *ids, renderer.eos_id] for n, ids in enumerate(completions)]
    longest = max(len(row) for row in rows)
    ids_BS = torch.tensor([[0] * 3 + row + [0] * (longest - len(row)) for row in rows])
    hidden = module.model(ids_BS, ids_BS != 0).hidden_states[-1]
    last = torch.tensor([len(row) + 2 for row in rows])
    assert module.score(hidden)[range(4), last, 0].tolist() == pytest.approx(good)


def test_a_task_is_read_as_it_was_written(task: Task, tmp_path: Path) -> None:
    write(tmp_path, TASK, task)

    assert read_task(tmp_path) == task


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["1m", "50m"])
def test_minibatches_divide_into_microbatches(size: Size, task: Task) -> None:
    config = configuration(Task(**{**vars(task), **size.settings}))

    assert config.completions_per_update % (config.minibatches * config.microbatch_size) == 0
