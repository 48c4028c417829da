"""What fewer bits are worth: the kernels of this machine against float32, and ResNet-20 at several average bits.

    python -m tests.benchmarks.granularity --json                      # kernels: a row per layer and batch
    python -m tests.benchmarks.granularity --resnet20 8 6 4            # accuracy after half an epoch, a row per average
    python -m tests.benchmarks.granularity --resnet20 6 --set controller=learned --set activations=static

A layer of codes is timed as it runs, from a float32 input to a float32 output: finding the range and rounding the input
are part of it. It stands beside float32 in the memory layout that is faster, and beside the same codes without the
kernel (``simulated``). With one thread it is the processor's time that counts, not the clock's. On ResNet-20 validation
is the first half of the test file; by the second nothing is chosen.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from objectives.accuracy import mean_score
from objectives.bits import weight_bits
from objectives.tasks.cifar10 import Cifar10
from search.result import Budget, TrialRequest
from search.scoring import measure_baseline
from search.surgery.granularity_finish import replace_units
from search.surgery.granularity_kernels import available, execution_of, processor_seconds
from search.surgery.granularity_units import Grain
from search.trial import Trial
from spaces import FinetuningPolicy, GranularityPolicy
from spaces.profile import CompressionProfile
from tests.data import FOLDER

#: Inputs, outputs; and channels in, channels out, size of the image, size of the kernel.
LINEAR = ((64, 10), (512, 512), (768, 3072), (1024, 1024))
CONVOLUTIONS = ((16, 16, 32, 3), (32, 32, 16, 3), (64, 64, 8, 3), (64, 64, 56, 3), (128, 128, 28, 3), (256, 512, 14, 1))
BATCHES = (1, 64)


def kernels(repeats: int = 5) -> Iterator[dict[str, Any]]:
    """A row per layer, level and batch: microseconds of a call, the least of some repetitions."""
    for shape in (*LINEAR, *CONVOLUTIONS):
        for bits in (8, 4):
            plain = _layer(shape)
            network = nn.Sequential(_layer(shape))
            network[0].load_state_dict(plain.state_dict())
            count = int(plain.weight.shape[0])  # type: ignore[index]
            grain = Grain((count,), [bits], "dynamic", torch.bfloat16)
            replace_units(network, {"0": grain}, [])
            coded: Any = network[0]
            for batch in BATCHES:
                x = _input(shape, batch)
                least = min(_microseconds(call, repeats) for call in _in_float32(plain, x))
                coded.kernel_from = 0
                simulated = _microseconds(partial(coded, x), repeats)
                coded.kernel_from = 1
                row: dict[str, Any] = {
                    "layer": type(plain).__name__,
                    "shape": list(shape),
                    "bits": bits,
                    "batch": batch,
                }
                row |= {"kernel": execution_of(coded), "float32_us": least, "simulated_us": simulated}
                row["kernel_us"] = _microseconds(partial(coded, x), repeats)
                yield row | {"speedup": least / row["kernel_us"]}


def _layer(shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    if len(shape) == 2:
        return nn.Linear(*shape).requires_grad_(False)
    before, after, _, size = shape
    return nn.Conv2d(before, after, size, padding=size // 2).requires_grad_(False)


def _input(shape: tuple[int, ...], batch: int) -> Tensor:
    return torch.randn(batch, shape[0]) if len(shape) == 2 else torch.randn(batch, shape[0], shape[2], shape[2])


def _in_float32(layer: nn.Module, x: Tensor) -> Iterator[Callable[[], object]]:
    yield lambda: layer(x)
    if x.dim() == 4:
        last = x.to(memory_format=torch.channels_last)
        moved = _copy(layer).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield lambda: moved(last)


def _copy(layer: nn.Module) -> nn.Module:
    twin = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)  # type: ignore[arg-type]
    twin.load_state_dict(layer.state_dict())
    return twin.requires_grad_(False)


def _microseconds(call: Callable[[], object], repeats: int) -> float:
    number = max(1, round(0.002 / max(1e-6, processor_seconds(call, 1))))

    def several() -> None:
        for _ in range(number):
            call()

    return processor_seconds(several, repeats) / number * 1e6


def resnet20(bits: float, epochs: float, settings: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """One trial on ResNet-20: accuracy on both halves of the test file, and what is left of size and bit operations."""
    data, weights = FOLDER / "cifar10", FOLDER / "weights" / "resnet20-cifar10-jpeg.safetensors"
    task = Cifar10(data_dir=str(data), weights=str(weights), validation="test-head")
    profile = CompressionProfile.of(
        GranularityPolicy.from_values({"bits": bits, **settings}),
        FinetuningPolicy(learning_rate=0.02),
    )
    baseline = measure_baseline(task)
    request = TrialRequest(0, "granularity", profile, seed, Budget(epochs=epochs, precision="bf16"))
    started = time.perf_counter()
    trial = Trial(request, task, ["accuracy", "bops", "size_bytes"], baseline)
    for _ in trial.iterations():
        pass
    finished = trial.finish()
    seconds = time.perf_counter() - started
    levels = {
        name: [list(run) for run in module.rows]
        for name, module in finished.network.named_modules()
        if hasattr(module, "rows")
    }
    return {
        "bits": bits,
        **settings,
        "epochs": epochs,
        "seed": seed,
        "baseline": baseline["accuracy"],
        "validation": finished.scores["accuracy"],
        "test": mean_score(finished.network, task, "test", "cpu"),
        "mean_bits": finished.ledger.receipts["granularity"]["mean_bits"],
        "weight_bits": weight_bits(finished.network),
        "bops": finished.scores["bops"] / baseline["bops"],
        "size_bytes": finished.scores["size_bytes"] / baseline["size_bytes"],
        "execution": sorted({execution_of(m) for m in finished.network.modules() if hasattr(m, "rows")}),
        "levels": levels,
        "seconds": seconds,
    }


def main() -> None:
    """Measure and print, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="rows as JSON, one a line")
    parser.add_argument("--resnet20", type=float, nargs="+", metavar="BITS", help="train at these average bits instead")
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="of the policy")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings: dict[str, Any] = {}
    for text in arguments.set:
        knob, _, value = text.partition("=")
        kind = GranularityPolicy.knob(knob).type
        settings[knob] = value == "true" if kind is bool else kind(value)
    rows = (resnet20(bits, arguments.epochs, settings) for bits in arguments.resnet20 or ())
    print(json.dumps({"machine": platform.processor() or platform.machine(), "kernels": sorted(available())}))
    for row in rows if arguments.resnet20 else kernels():
        if arguments.json or arguments.resnet20:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{row['layer']:8} {'x'.join(map(str, row['shape'])):14} {row['bits']} bits, batch {row['batch']:2}: "
                f"float32 {row['float32_us']:8.0f} us, kernel {row['kernel_us']:8.0f} us, {row['speedup']:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
