"""Packed blocks: samples whose gate is shut are left out of the batch that runs, and put back behind it.

Shapes: B samples, U choices of a gate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.surgery.routing_gate import RoutingGate


class Chooser(nn.Module):
    """What a finalized gate computes, in as few steps as possible: centre and scale are folded into its weights.

    Args:
        gate: The gate; it is not changed.
    """

    def __init__(self, gate: RoutingGate) -> None:
        super().__init__()
        self.gate = gate
        reads = gate.second if gate.first is None else gate.first
        weight = reads.detach() * gate.scale
        shift = -weight @ gate.center
        if gate.first is None:
            shift = shift + gate.bias.detach()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    weight: Tensor
    shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Which choices are open for each sample, boolean (B, U)."""
        gate = self.gate
        z_BU = F.linear(gate.pooled(x), self.weight, self.shift)
        if gate.first is not None:
            z_BU = F.linear(z_BU.relu_(), gate.second, gate.bias)
        open_BU = z_BU > 0
        return gate.choices(z_BU) > 0 if gate.forced else open_BU


class RoutedBlock(nn.Module):
    """f(bypass + g body(read)), where the body runs for the samples whose gate is open.

    Args:
        gate: Chooses.
        body: What is run.
        gathered: Per tensor that the body reads, whether its dimension 0 is the batch.
        replaces: Whether the body's result stands instead of the bypass, not in addition to it.
        owns: Whether nobody reads the bypass later, so that it may be written into.
        rectifies: Whether f is a ReLU; else it is nothing.
        rectified: Whether the bypass is never negative.

    Attributes:
        ran: For how many samples the body has run.
        seen: How many samples came by.
    """

    def __init__(
        self,
        gate: RoutingGate,
        body: nn.Module,
        gathered: Sequence[bool],
        *,
        replaces: bool,
        owns: bool,
        rectifies: bool,
        rectified: bool,
    ) -> None:
        super().__init__()
        self.chooser, self.body = Chooser(gate), body
        self.gathered, self.replaces, self.owns = tuple(gathered), replaces, owns
        self.rectifies, self.rectified = rectifies, rectified
        self.ran = self.seen = 0

    def forward(self, entry: Tensor, bypass: Tensor, *read: Tensor) -> Tensor:
        """
        Args:
            entry: What the gate reads.
            bypass: What every sample has.
            read: What the body reads.
        """
        open_B = self.chooser(entry)[:, 0]
        size = len(open_B)
        chosen = open_B.nonzero()[:, 0] if size > 1 else None
        count = int(open_B) if chosen is None else len(chosen)
        self.ran, self.seen = self.ran + count, self.seen + size
        if not self.owns or torch.is_grad_enabled():
            bypass = bypass.clone()
        if chosen is None or count in (0, size):
            total = self._joined(bypass, self.body(*read)) if count else bypass
            return total.relu_() if self.rectifies and (count or not self.rectified) else total
        few = [x.index_select(0, chosen) if by_sample else x for x, by_sample in zip(read, self.gathered, strict=True)]
        computed = self.body(*few)
        if not self.rectifies or not self.rectified:
            total = bypass.index_copy_(0, chosen, computed) if self.replaces else bypass.index_add_(0, chosen, computed)
            return total.relu_() if self.rectifies else total
        # Only who has run can have become negative.
        return bypass.index_copy_(0, chosen, self._joined(bypass.index_select(0, chosen), computed).relu_())

    def _joined(self, bypass: Tensor, computed: Tensor) -> Tensor:
        return computed if self.replaces else bypass.add_(computed)


class RoutedChannels(nn.Module):
    """Two layers of which groups of inner channels run for the samples that want them.

    Args:
        gate: Chooses per group.
        whole: Both layers with what is between them.
        parts: Per group the same with the channels of this group alone; none adds the second layer's bias.
        bias: Of the second layer, of a shape that can be added to what it gives; None where it has none.

    Attributes:
        ran: For how many samples the layers have run, a sample for which half of the channels ran counting half.
        seen: How many samples came by.
    """

    def __init__(self, gate: RoutingGate, whole: nn.Module, parts: Sequence[nn.Module], bias: Tensor | None) -> None:
        super().__init__()
        self.chooser, self.whole, self.parts = Chooser(gate), whole, nn.ModuleList(parts)
        self.register_buffer("bias", bias)
        self.ran = self.seen = 0.0

    bias: Tensor | None

    def forward(self, entry: Tensor, read: Tensor) -> Tensor:
        """
        Args:
            entry: What the gate reads.
            read: What the first layer reads.
        """
        open_BU = self.chooser(entry)
        self.ran += float((open_BU.float() @ self.chooser.gate.parts()).sum())
        self.seen += len(entry)
        if bool(open_BU.all()):
            computed: Tensor = self.whole(read)
            return computed
        total: Tensor | None = None
        for part, open_B in zip(self.parts, open_BU.unbind(1), strict=True):
            chosen = open_B.nonzero()[:, 0]
            everybody = len(chosen) == len(entry)
            if len(chosen) == 0:
                continue
            computed = part(read if everybody else read.index_select(0, chosen))
            if total is None and everybody:
                total = computed
                continue
            if total is None:
                total = computed.new_zeros(len(entry), *computed.shape[1:])
            total = total.index_add_(0, chosen, computed)
        if total is None:
            # Nobody wants anything: one sample says what nothing looks like.
            total = read.new_zeros(len(entry), *self.whole(read[:1]).shape[1:])
        return total if self.bias is None else total + self.bias
