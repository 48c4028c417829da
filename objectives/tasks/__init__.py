"""The tasks that come along, by the short name that a study file may use."""

from __future__ import annotations

from collections.abc import Mapping

TASKS: Mapping[str, str] = {
    "chars": "objectives.tasks.chars:Chars",
    "cifar10": "objectives.tasks.cifar10:Cifar10",
    "digits": "objectives.tasks.digits:Digits",
    "onnx": "objectives.tasks.onnx:Onnx",
    "tabular": "objectives.tasks.tabular:Tabular",
    "transformers": "objectives.tasks.transformers:Transformers",
}
