"""Characters: the text is cut without loss or leak, figures are what they say, and the transformer is compressed."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from objectives.accuracy import mean_score
from objectives.checking import check_task
from objectives.loading import load_task
from objectives.task import Evaluates, SharesArrays, Task
from objectives.tasks.batches import Batches
from objectives.tasks.chars import Chars
from objectives.tasks.decoder import Decoder
from objectives.tasks.text import cut, help_topics, windows
from objectives.tasks.trained import train
from search.surgery.graph import trace
from spaces.errors import TaskError
from tests.objectives.compressing import PRUNINGS, compressed

SMALL: dict[str, Any] = {"context": 16, "width": 16, "depth": 1, "heads": 2, "epochs": 6, "batch_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chars")
    # A text with something to learn: words of a few letters, drawn once and for all.
    words = ["ab", "ba", "cad", "dac", "e"]
    chosen = np.random.default_rng(0).integers(len(words), size=3000)
    (folder / "text.txt").write_text(" ".join(words[i] for i in chosen) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def task(folder: Path) -> Chars:
    return Chars(str(folder / "text.txt"), cache_dir=str(folder / "cache"), **SMALL)


def test_it_is_a_task_that_shares_and_evaluates(task: Chars) -> None:
    assert isinstance(task, Task)
    assert isinstance(task, SharesArrays)
    assert isinstance(task, Evaluates)
    check_task(task)


def test_the_text_is_learnt_from_its_head_and_told_on_its_tail(task: Chars) -> None:
    network = task.network()
    assert not network.training
    inside, tail = (mean_score(network, task, split) for split in ("train", "test"))
    # Of five words that may follow, the first letter is a guess; the letters after it are not.
    assert inside > 0.55
    assert tail == pytest.approx(inside, abs=0.05)
    bits = task.evaluate(network, "validation")["bits_per_character"]
    assert 0.5 < bits < math.log2(7)


def test_a_network_that_knows_nothing_needs_the_whole_alphabet(task: Chars) -> None:
    class Uniform(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(()))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.logit.expand(tokens.shape[0], 8, tokens.shape[1])

    assert task.evaluate(Uniform(), "test")["bits_per_character"] == pytest.approx(3.0)


def test_score_and_loss_are_what_hand_arithmetic_gives(task: Chars) -> None:
    outputs_BVL = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])
    targets_BL = torch.tensor([[0, 1], [1, 1]])
    # The first sample is right at position 0 and undecided at 1, where the first of two equal logits is taken.
    assert task.score(outputs_BVL, targets_BL).tolist() == [0.5, 1.0]
    nats = [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1))]
    assert float(task.loss(outputs_BVL, targets_BL)) == pytest.approx(sum(nats) / 4)


def test_what_follows_a_character_is_its_target(task: Chars, folder: Path) -> None:
    text = (folder / "text.txt").read_text(encoding="utf-8")
    letters = "?" + "".join(map(chr, task.data()["vocabulary"]))
    assert letters == "? abcde"  # the line's end is only in the tail, so it has no code of its own
    told = ""
    for inputs, targets in task.batches("train", shuffle_seed=None):
        assert isinstance(inputs, Tensor)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        told += "".join(letters[code] for code in inputs.flatten())
    assert text.startswith(told)
    assert len(told) > 0.79 * len(text)


def test_attention_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    network = Decoder(vocabulary=5, context=8, width=8, depth=2, heads=2).eval()
    tokens = torch.randint(5, (2, 8))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 5
    with torch.no_grad():
        before, after = network(tokens), network(changed)
    assert before.shape == (2, 5, 8)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5:], after[:, :, 5:])


def test_torch_fx_traces_the_transformer_at_any_batch_and_length(task: Chars) -> None:
    network = task.network()
    traced = trace(network, task.example_inputs()).eval()
    tokens = torch.randint(6, (5, 9))
    with torch.no_grad():
        assert torch.equal(traced(tokens), network(tokens))


def test_training_repeats_and_is_done_once(task: Chars, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.random.get_rng_state()
    assert task.training is not None
    again = train(task, task.training).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in task.network().state_dict().items())
    other = Chars(str(folder / "text.txt"), cache_dir=str(folder / "cache"), **SMALL, seed=1)
    assert other.weights_file != task.weights_file
    monkeypatch.setattr("objectives.tasks.trained.train", lambda *_: pytest.fail("trained again"))
    kept = Chars(str(folder / "text.txt"), cache_dir=str(folder / "cache"), **SMALL).network()
    assert torch.equal(next(kept.parameters()), next(task.network().parameters()))


def test_long_training_says_so_and_short_training_does_not(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = SMALL | {"epochs": 1}
    Chars(str(folder / "text.txt"), cache_dir=str(tmp_path / "a"), **arguments).network()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("objectives.tasks.trained.PATIENCE", 0.0)
    Chars(str(folder / "text.txt"), cache_dir=str(tmp_path / "b"), **arguments).network()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "chars: training the network, " in captured.err
    assert captured.err.splitlines()[-1].endswith("it is kept for the next time")


def test_another_instance_takes_everything_from_shared_arrays(task: Chars, tmp_path: Path) -> None:
    shared = task.arrays()
    for array in shared.values():
        array.flags.writeable = False
    other = Chars("nowhere.txt", cache_dir=str(tmp_path / "empty"), **SMALL)
    other.use(shared)
    assert mean_score(other.network(), other, "test") == mean_score(task.network(), task, "test")
    check_task(other)
    assert not (tmp_path / "empty").exists()


def test_pythons_own_text_is_long_repeats_and_leaks_nothing() -> None:
    text = help_topics()
    assert len(text) > 100_000
    assert text == help_topics()
    paragraphs = text.split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))
    task = Chars(context=32, width=8, depth=1, heads=1)
    assert sum(len(task.data()[split]) for split in ("train", "validation", "test")) == len(text)
    assert all((task.data()[split] == 0).mean() < 0.01 for split in ("train", "validation", "test"))


def refusal(**args: object) -> str:
    with pytest.raises(TaskError) as caught:
        load_task("chars", args).network()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_read_or_breaks_a_rule_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 2000)
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "short.txt").write_text("abc" * 200, encoding="utf-8")
    assert "text must be a readable file, but nowhere.txt is not (No such file" in refusal(text="nowhere.txt")
    assert "text must be in UTF-8, but" in refusal(text=str(tmp_path / "latin.txt"))
    assert "is empty: use another file" in refusal(text=str(tmp_path / "empty.txt"))
    assert "at least 1,290 characters for samples of that length, but has 600" in refusal(
        text=str(tmp_path / "short.txt")
    )
    assert "width must be a multiple of heads, but 10 is none of 4" in refusal(width=10)
    assert "context must be a whole number of at least 2, but is 1" in refusal(context=1)
    assert "epochs must be a whole number of at least 1, but is 0" in refusal(epochs=0)
    with pytest.raises(TaskError, match="a split must be one of train, validation, test, but is 'dev'"):
        Chars().batches("dev", shuffle_seed=None)  # type: ignore[arg-type]


@given(length=st.integers(40, 400), context=st.integers(2, 20), seed=st.none() | st.integers(0, 2**31))
def test_windows_lie_inside_side_by_side_and_are_as_many_for_every_seed(
    length: int, context: int, seed: int | None
) -> None:
    codes = np.arange(length)
    starts = windows(codes, context, seed)
    assert len(starts) >= 1
    assert starts[0] < context
    assert (np.diff(starts) == context).all()
    assert starts[-1] + context < length
    if seed is None:
        assert starts[0] == 0
        assert length - (starts[-1] + context) <= context
    else:
        assert len(starts) == len(windows(codes, context, 0))


@given(length=st.integers(10, 500), least=st.integers(1, 10))
def test_the_splits_are_the_text(length: int, least: int) -> None:
    try:
        parts = cut(np.arange(length), least, "characters")
    except TaskError:
        assert length < 10 * least + 10
        return
    assert np.concatenate([parts["train"], parts["validation"], parts["test"]]).tolist() == list(range(length))
    assert min(len(part) for part in parts.values()) >= least


@given(
    count=st.integers(1, 50), size=st.integers(1, 20), seed=st.none() | st.integers(0, 2**31), least=st.integers(1, 2)
)
def test_a_pass_shows_every_sample_once(count: int, size: int, seed: int | None, least: int) -> None:
    batches = Batches(count, size, seed, lambda rows, _: (torch.from_numpy(rows), torch.from_numpy(rows)), least)
    shown = [targets.tolist() for _, targets in batches]
    assert len(shown) == len(batches) >= 1
    seen = [row for batch in shown for row in batch]
    assert len(seen) == len(set(seen)) >= count - (least - 1)
    assert all(len(batch) == size for batch in shown[:-1])
    if seed is None:
        assert seen == list(range(count))
    elif count > 1:
        assert size < least or all(len(batch) >= least for batch in shown)
    assert shown == [targets.tolist() for _, targets in batches]


@pytest.mark.parametrize("granularity", PRUNINGS)
def test_it_is_compressed(task: Chars, granularity: str) -> None:
    start = time.process_time()
    result = compressed(task, PRUNINGS[granularity], epochs=4)
    assert result.scores["bits_per_character"] < math.log2(7)
    assert result.scores["accuracy"] > result.baseline["accuracy"] - 0.1
    if granularity == "channel":
        assert result.scores["macs"] < result.baseline["macs"]
    assert time.process_time() - start < 30
