"""Global sparsity control: where the target stands at each decision, and the amplitude that drives the sparsity there.

Two loops. The inner one, at each decision, sets the amplitude of the threshold's wave from the sparsity that is
missing. The outer one, once per iteration, lets the validation accuracy decide how fast the target rises.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The slowest pace at which the target rises, of the planned one.
SLOWEST = 0.25


@dataclass
class AmplitudeController:
    """A PI controller over a feed-forward term, clipped, with conditional integration against windup.

    The threshold is a quantile: at rest the share below its crest is off. So `target - base` is what the amplitude
    would be if no frequency ever changed, and the controller corrects what they do change.

    Args:
        base: The threshold's lowest value, in [0, 1).
        kp: Proportional gain, >= 0.
        ki: Integral gain, >= 0.
    """

    base: float
    kp: float
    ki: float
    integral: float = 0.0
    clipped: int = 0

    def forward(self, target: float) -> float:
        """The amplitude for a target that is held, were no frequency ever to change; in [0, 1 - base]."""
        return min(max(target - self.base, 0.0), 1 - self.base)

    def amplitude(self, target: float, error: float) -> float:
        """The amplitude for the next decision, in [0, 1 - base].

        Args:
            target: The sparsity that is wanted now.
            error: What is missing of the sparsity that there should be by now.
        """
        wanted = target - self.base + self.kp * error + self.ki * (self.integral + error)
        amplitude = min(max(wanted, 0.0), 1 - self.base)
        if wanted == amplitude:
            self.integral += error
            return amplitude
        self.clipped += 1
        # At a limit the integral may only move back towards the range, or it would take long to return.
        if (error < 0) == (wanted > amplitude):
            self.integral += error
        return amplitude


@dataclass
class TargetPath:
    """The target over the decisions: a cubic rise, then a hold at the final value, so that the loop can settle.

    Args:
        final: The sparsity at the end.
        rise: Decisions over which it rises, >= 0.
    """

    final: float
    rise: int
    start: float = 0.0
    progress: float = 0.0
    pace: float = 1.0
    score: float | None = None

    def advance(self, decision: int) -> float:
        """The target at a decision, from 0; the way that a slow pace has left is spread over what remains."""
        if decision >= self.rise - 1:
            self.progress = 1.0
        else:
            self.progress += self.pace * (1 - self.progress) / (self.rise - decision)
        return self.final + (self.start - self.final) * (1 - self.progress) ** 3

    def steer(self, score: float | None) -> None:
        """Once per iteration: half the pace where the validation score has fallen, twice where not, at most 1."""
        if score is None:
            return
        fell = self.score is not None and score < self.score
        self.pace = max(SLOWEST, self.pace / 2) if fell else min(1.0, 2 * self.pace)
        self.score = score


def rise_of(decisions: int, period: int, cooling: int) -> int:
    """Decisions over which the target rises: all but one wave and the cooling, and at least half of them."""
    return max((decisions + 1) // 2, decisions - period - cooling)
