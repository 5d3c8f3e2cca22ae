"""The KL coefficient β, fixed or steered towards a target."""

from __future__ import annotations


class FixedKL:
    """β as it was set."""

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient

    def update(self, kl: float, *, completions: int) -> None:
        """After an update: nothing."""


class AdaptiveKL:
    """A proportional controller of β (Ziegler et al., 2019, section 2.2).

        e = clip(KL / KL_target − 1, ±0.2),    β ← β (1 + e · n / horizon)

    The error is clipped, so that a single update moves β by at most a fifth of n / horizon. β is
    never negative, and never leaves 0.
    """

    def __init__(self, coefficient: float, *, target: float, horizon: int) -> None:
        """
        Args:
            coefficient: β before the first update, in units of Q per nat.
            target: KL per completion that is wanted, in nats.
            horizon: Completions over which an error works itself out.

        Raises:
            ValueError: If the target or the horizon is not positive, or β is negative.
        """
        if target <= 0 or horizon <= 0 or coefficient < 0:
            raise ValueError(
                f"target = {target} and horizon = {horizon} must be positive, and the coefficient, "
                f"{coefficient}, not negative"
            )
        self.coefficient = coefficient
        self._target = target
        self._horizon = horizon

    def update(self, kl: float, *, completions: int) -> None:
        """After an update.

        Args:
            kl: Mean KL per completion in it, in nats.
            completions: How many it had.

        >>> control = AdaptiveKL(0.1, target=2.0, horizon=1000)
        >>> control.update(4.0, completions=500)
        >>> round(control.coefficient, 6)  # 0.1 (1 + 0.2 · 500 / 1000)
        0.11
        """
        error = min(max(kl / self._target - 1, -0.2), 0.2)
        self.coefficient *= max(0.0, 1 + error * completions / self._horizon)
