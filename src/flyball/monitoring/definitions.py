"""What a user writes to watch a model: `fb.monitor.drift(...)`, `fb.monitor.performance(...)`.

The surprise: `monitor` is a namespace, not a module, so that `fb.monitor` costs no import of the monitors themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyball.errors import DefinitionError, UnknownName
from flyball.monitoring.types import MonitorSpec
from flyball.units import duration, share

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["METRIC_NAMES", "monitor"]

METRIC_NAMES = ("accuracy", "auc", "bias", "brier", "logloss", "mae", "mse", "rmse")


class monitor:  # noqa: N801 a namespace that reads as fb.monitor.drift(...)
    """Monitors of a model."""

    @staticmethod
    def drift(
        window: str | timedelta = "1d", *, warn: float = 0.10, page: float = 0.15, q: str | float = 0.01
    ) -> MonitorSpec:
        """Watch the served features of every window against what the champion was trained on.

        Args:
            window: Length of a window: whole days, or shorter than a day.
            warn: Smallest distance worth a warning (Wasserstein / reference sd, or Jensen-Shannon distance).
            page: Smallest distance that may page, and with it trigger a retraining; >= warn.
            q: False discovery rate over a window's features, in (0, 1).

        Raises:
            DefinitionError: page below warn, or a distance that is not positive.
        """
        if not 0 < warn <= page:
            raise DefinitionError(f"drift needs 0 < warn <= page, but warn is {warn} and page is {page}; swap them")
        return MonitorSpec("drift", _window(window), warn=warn, page=page, q=share(q))

    @staticmethod
    def performance(metric: str, window: str | timedelta = "1d") -> MonitorSpec:
        """Watch a metric of matured outcomes, keyed by prediction time.

        Args:
            metric: One of accuracy, auc, bias, brier, logloss, mae, mse, rmse.
            window: Length of a window: whole days, or shorter than a day.
        """
        if metric not in METRIC_NAMES:
            raise UnknownName.of("performance metric", metric, METRIC_NAMES)
        return MonitorSpec("performance", _window(window), metric=metric)


def _window(text: str | timedelta) -> timedelta:
    span = duration(text)
    if span.total_seconds() <= 0 or (span.days and span.total_seconds() % 86_400):
        raise DefinitionError(
            f"a window of {text!r} is neither whole days nor shorter than a day; use 1h, 6h, 1d or 7d"
        )
    return span
