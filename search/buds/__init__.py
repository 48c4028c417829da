"""Buds: small networks grown from a parent, each for a part of its inputs; how they are found, trained and served."""

from __future__ import annotations

#: What a system of buds can be scored by, beside its task's own metrics.
MEASURES = ("accuracy", "macs", "bops", "parameters", "size_bytes")
