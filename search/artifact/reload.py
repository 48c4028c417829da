"""Runs an export in a process of its own: ``python -m search.artifact.reload DIR EXCHANGE THREADS``.

It knows nothing of the task. Inputs lie in the folder ``EXCHANGE``, and outputs are left there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from search.artifact.parity import INPUTS, OUTPUTS, outputs_of
from search.export import load
from spaces.errors import PleachError


def main(folder: str, exchange: str, threads: str) -> None:
    """Load the export and run it on the inputs."""
    torch.set_num_threads(int(threads))
    stored = load_file(Path(exchange) / INPUTS)
    outputs = outputs_of(load(folder), [stored[str(i)] for i in range(len(stored))])
    save_file({str(i): output.contiguous().clone() for i, output in enumerate(outputs)}, Path(exchange) / OUTPUTS)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except PleachError as error:
        sys.exit(str(error))
