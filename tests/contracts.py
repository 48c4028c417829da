"""The laws that every mechanism keeps, alone and together with the others. Each takes a task and a profile."""

from __future__ import annotations

from pathlib import Path

import torch

from objectives.size import nonzeros
from objectives.task import Task
from search.checkpoint import Checkpoints
from search.finetune import Finetuning, in_fast_layout
from search.recipe import Recipe
from search.surgery.finalize import finalize, plain
from search.surgery.mechanisms import mechanisms_for
from search.surgery.site import Site
from spaces.profile import CompressionProfile
from tests.search.surgery.harness import operate, site_for

STEPS = 16


def books_balance(site: Site) -> None:
    """The ledger equals a recount of the masks, and what is off is exactly 0: weight, gradient's effect, momentum."""
    connectivity = site.connectivity
    assert connectivity.recount() == dict(connectivity.active) == connectivity.ledger().active()
    moments = site.optimizer.state() if site.optimizer is not None else {}
    order = {id(p): i for i, p in enumerate(site.optimizer.parameters)} if site.optimizer is not None else {}
    for name, weight in connectivity.weights.items():
        off = ~connectivity.masks[name]
        assert not weight[off].any(), name
        for key, value in moments.items():
            if key.partition(".")[0] == str(order[id(weight)]) and value.shape == weight.shape:
                assert not value[off].any(), (name, key)
    assert all(active >= 0 for active in connectivity.active.values())


def attaching_keeps_outputs(task: Task, profile: CompressionProfile, steps: int = STEPS) -> None:
    """I1: attaching preserves the evaluation outputs exactly."""
    network = in_fast_layout(task.network().eval())
    inputs = task.example_inputs()
    with torch.no_grad():
        before = network(*inputs)
        site = site_for(network, task, profile, steps)
        for mechanism in mechanisms_for(profile):
            mechanism.attach(site)
        assert torch.equal(site.network.eval()(*inputs), before)


def finalized_equals_attached(task: Task, profile: CompressionProfile, steps: int = STEPS) -> None:
    """I2 and I6: the plain network computes what the attached one did, and its non-zeros are what the ledger says."""
    site, mechanisms = operate(task, profile, steps, books_balance)
    inputs = task.example_inputs()
    with torch.no_grad():
        attached = site.network.eval()(*inputs)
        network = finalize(site, mechanisms)
        # The plain network's weights lie in the usual layout, so sums are taken in another order.
        tolerance = 1e-4 if site.connectivity.closed else 1e-5
        torch.testing.assert_close(network(*inputs), attached, rtol=tolerance, atol=tolerance)
    assert not list(network.buffers()) or "mask" not in " ".join(name for name, _ in network.named_buffers())
    assert nonzeros(network) == sum(site.connectivity.ledger().active().values())
    assert set(site.receipts) == {mechanism.name for mechanism in mechanisms}


def batches_do_not_mix(task: Task, profile: CompressionProfile, steps: int = STEPS) -> None:
    """I4: a sample's output does not depend on the others in its batch."""
    site, mechanisms = operate(task, profile, steps)
    network = finalize(site, mechanisms)
    inputs = task.example_inputs()
    with torch.no_grad():
        together = network(*inputs)
        alone = torch.cat([network(*(x[i : i + 1] for x in inputs)) for i in range(len(together))])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def same_seed_same_result(task: Task, profile: CompressionProfile, steps: int = STEPS) -> None:
    """I5: the same seed gives the same masks, weights and books."""
    (one, _), (two, _) = operate(task, profile, steps), operate(task, profile, steps)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, two.network.state_dict()[name]), name
    assert one.connectivity.ledger() == two.connectivity.ledger()


def looking_ahead_changes_nothing(task: Task, profile: CompressionProfile, steps: int = STEPS) -> None:
    """A copy brought to the end state, before the first step and between steps, leaves the training as it is."""

    def run(looks: bool) -> Site:
        torch.manual_seed(0)
        site = site_for(task.network(), task, profile, steps)
        mechanisms = mechanisms_for(profile)
        for mechanism in mechanisms:
            mechanism.attach(site)
        loop = Finetuning(site, mechanisms, task, Recipe(), start=0.05, seed=0)
        for until in (0, steps // 3, steps):
            loop.train(until=until, iteration=0)
            rng = torch.get_rng_state()
            if looks:
                twin = site.copy()
                for mechanism in mechanisms:
                    mechanism.project(twin)
                with torch.no_grad():
                    plain(twin)(*task.example_inputs())
            torch.set_rng_state(rng)
        return site

    one, two = run(looks=False), run(looks=True)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, two.network.state_dict()[name]), name
    assert one.connectivity.ledger() == two.connectivity.ledger()


def interrupted_equals_whole(
    task: Task, profile: CompressionProfile, folder: Path, at: int, steps: int = STEPS
) -> None:
    """I3: saved at a step, taken up by a new site in a new loop, a run ends as one that was never interrupted."""

    def start() -> tuple[Site, list, Finetuning]:  # type: ignore[type-arg]
        torch.manual_seed(0)
        site = site_for(task.network(), task, profile, steps)
        mechanisms = mechanisms_for(profile)
        for mechanism in mechanisms:
            mechanism.attach(site)
        return site, mechanisms, Finetuning(site, mechanisms, task, Recipe(), start=0.05, seed=0)

    whole, whole_mechanisms, loop = start()
    loop.train(until=at, iteration=0)
    Checkpoints(folder).save(whole, whole_mechanisms, loop, [])
    loop.train(until=steps, iteration=1)

    torch.manual_seed(99)
    resumed, mechanisms, again = start()
    torch.manual_seed(77)
    Checkpoints(folder).load(resumed, mechanisms, again)
    assert again.step == at
    again.train(until=steps, iteration=1)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    assert whole.connectivity.ledger() == resumed.connectivity.ledger()
    expected, found = finalize(whole, whole_mechanisms), finalize(resumed, mechanisms)
    with torch.no_grad():
        assert torch.equal(expected(*task.example_inputs()), found(*task.example_inputs()))
