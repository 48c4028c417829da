"""How two sets of units vary together, streamed batch by batch: exact in float32, whatever the means are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = ("count", "mean_y", "mean_x", "spread_y", "spread_x", "cross")


class Covariance:
    """Sums of centred products, joined as by Chan et al. (1979): no large sums are subtracted from each other."""

    def __init__(self) -> None:
        self._parts: tuple[Tensor, ...] | None = None

    def add(self, y: Tensor, x: Tensor) -> None:
        """Take in samples.

        Args:
            y: (samples, units), float32.
            x: (samples, other units), float32; of the same samples.
        """
        means = y.mean(0), x.mean(0)
        y, x = y - means[0], x - means[1]
        fresh = (
            torch.tensor(float(len(y)), device=y.device),
            *means,
            torch.linalg.vector_norm(y, dim=0).square(),
            torch.linalg.vector_norm(x, dim=0).square(),
            y.T @ x,
        )
        self._parts = fresh if self._parts is None else _joined(self._parts, fresh)

    def correlation(self) -> Tensor:
        """(units, other units), in [0, 1]: |Pearson|; 0 where a unit never varies.

        Raises:
            ValueError: If nothing was taken in.
        """
        if self._parts is None:
            raise ValueError("a correlation needs samples, but none were added: add some first")
        count, _, _, spread_y, spread_x, cross = self._parts
        scale = torch.outer(spread_y, spread_x).sqrt()
        return torch.where(scale > 1e-12 * count, cross / scale.clamp_min(1e-30), 0.0).abs_().clamp_(0, 1)

    def state(self) -> dict[str, Tensor]:
        return dict(zip(_NAMES, (part.clone() for part in self._parts), strict=True)) if self._parts else {}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], device: torch.device) -> Covariance:
        """What :meth:`state` told of."""
        made = cls()
        made._parts = tuple(state[name].to(device).clone() for name in _NAMES)
        return made


def _joined(known: tuple[Tensor, ...], fresh: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    count, mean_y, mean_x, spread_y, spread_x, cross = known
    added, new_y, new_x, more_y, more_x, more = fresh
    total = count + added
    far_y, far_x = new_y - mean_y, new_x - mean_x
    weight = count * added / total
    return (
        total,
        mean_y + far_y * (added / total),
        mean_x + far_x * (added / total),
        spread_y + more_y + weight * far_y.square(),
        spread_x + more_x + weight * far_x.square(),
        cross.add_(more).addr_(weight * far_y, far_x),
    )
