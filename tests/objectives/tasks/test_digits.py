"""The task that needs nothing: trained in seconds, once, the same everywhere."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from objectives.accuracy import mean_score
from objectives.checking import check_task
from objectives.maskable import maskable
from objectives.task import Labels, SharesArrays, Task
from objectives.tasks.digits import Digits, train
from spaces.errors import TaskError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def task(cache: str) -> Digits:
    return Digits(cache_dir=cache)


def test_it_is_a_task_that_shares_and_labels(task: Digits) -> None:
    assert isinstance(task, Task)
    assert isinstance(task, SharesArrays)
    assert isinstance(task, Labels)
    check_task(task)


def test_the_network_is_trained_within_seconds(task: Digits) -> None:
    start = time.process_time()
    network = train(task, seed=0)
    # About 1 s; processor time, because the machine may be busy with other things.
    assert time.process_time() - start < 15
    assert mean_score(network, task, "test") >= 0.97
    assert mean_score(network, task, "validation") >= 0.97
    assert 20_000 <= sum(parameter.numel() for parameter in network.parameters()) <= 40_000
    assert len(maskable(network)) == 7


def test_training_repeats_and_leaves_the_callers_state_alone(task: Digits) -> None:
    before = torch.random.get_rng_state()
    first, second = train(task, seed=3), train(task, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = train(task, seed=4)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_the_network_is_trained_once_and_copied(task: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = task.network(), task.network()
    assert not one.training
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(other.parameters()).abs().sum() > 0
    monkeypatch.setattr("objectives.tasks.digits.train", lambda *_: pytest.fail("trained again"))
    again = Digits(cache_dir=str(task.weights_file.parents[1])).network()
    assert torch.equal(next(again.parameters()), next(other.parameters()))


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    task = Digits(cache_dir=str(tmp_path))
    task.weights_file.parent.mkdir()
    task.weights_file.write_bytes(b"torn")
    assert mean_score(task.network(), task, "test", limit=100) > 0.9
    assert task.weights_file.stat().st_size > 100_000


def test_processes_that_train_at_once_agree(tmp_path: Path) -> None:
    script = """if True:
        import sys, torch
        from objectives.tasks.digits import Digits
        torch.set_num_threads(1)
        print(sum(float(p.detach().double().sum()) for p in Digits(cache_dir=sys.argv[1]).network().parameters()))
    """
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sums[0] == sums[1] != ""
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["digits.safetensors"]


def test_the_splits_are_disjoint_whole_and_stratified(task: Digits) -> None:
    images = {}
    for split in ("train", "validation", "test"):
        images[split] = [x.numpy().tobytes() for batch, _ in task.batches(split, shuffle_seed=None) for x in batch]
        shares = np.bincount(task.labels(split)) / len(task.labels(split))
        assert shares == pytest.approx(np.bincount(load_digits().target) / 1797, abs=0.005)
    assert [len(part) for part in images.values()] == [1077, 360, 360]
    everything = [image for part in images.values() for image in part]
    assert len(set(everything)) == len({image.tobytes() for image in load_digits().images.astype(np.uint8)})
    assert not set(images["train"]) & set(images["validation"])


def test_labels_follow_the_fixed_order(task: Digits) -> None:
    targets = torch.cat([targets for _, targets in task.batches("test", shuffle_seed=None)])
    assert targets.tolist() == list(task.labels("test"))


def test_another_instance_takes_everything_from_shared_arrays(
    task: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = task.arrays()
    for array in shared.values():
        array.flags.writeable = False
    other = Digits(cache_dir=str(tmp_path / "empty"))
    monkeypatch.setattr(other, "read_images", lambda file: pytest.fail("read again"))
    monkeypatch.setattr(other, "read_weights", lambda: pytest.fail("trained again"))
    other.use(shared)
    assert mean_score(other.network(), other, "test") == mean_score(task.network(), task, "test")
    ours, theirs = (next(iter(t.batches("train", shuffle_seed=5))) for t in (task, other))
    assert torch.equal(ours[0], theirs[0])
    assert not (tmp_path / "empty").exists()


def test_what_breaks_a_rule_is_refused(task: Digits) -> None:
    with pytest.raises(TaskError, match="batch_size must be a whole number of at least 1, but is 0"):
        Digits(batch_size=0)
    with pytest.raises(TaskError, match="a split must be one of train, validation, test, but is 'dev'"):
        task.batches("dev", shuffle_seed=None)  # type: ignore[arg-type]
