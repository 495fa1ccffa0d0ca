"""Chances of crossing a boundary at a few looks, by recursive numerical integration.

Armitage, McPherson, Rowe (1969); Jennison and Turnbull (2000), chapter 19. The test statistics of successive looks are
those of a Brownian motion at the looks' information times, so the density of "not stopped yet" passes from look to look
through one integral. The surprise: composite Gauss-Legendre panels as wide as the kernel give ten digits, where
Simpson's rule needs a hand-made grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from flyball.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Density", "crossings"]

_FAR = 9.0  # deviations beyond which a normal density is nothing
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_PANELS = 250  # looks closer than about one part in 2,000 need more, and gain nothing


@dataclass(frozen=True, slots=True)
class Density:
    """The Z statistic's density among the trials that go on after a look.

    Args:
        time: Information time of the look; 0 before the first.
        drift: Expectation of Z at information time 1.
        nodes: Values of Z, shape (k,).
        mass: Density times weight of integration at each, shape (k,).
    """

    time: float
    drift: float
    nodes: Floats
    mass: Floats

    @classmethod
    def start(cls, drift: float = 0.0) -> Density:
        """Return the state before the first look: a single point of mass 1."""
        return cls(0.0, drift, np.zeros(1), np.ones(1))

    def above(self, time: float, z: float) -> float:
        """Return the chance to go on so far and then find Z >= z at `time`."""
        return float(self.mass @ ndtr((self._means(time) - z * math.sqrt(time)) / math.sqrt(time - self.time)))

    def below(self, time: float, z: float) -> float:
        """Return the chance to go on so far and then find Z <= z at `time`."""
        return float(self.mass @ ndtr((z * math.sqrt(time) - self._means(time)) / math.sqrt(time - self.time)))

    def proceed(self, time: float, lower: float, upper: float, *, following: float | None = None) -> Density:
        """Return the density after a look at `time` that stops outside (lower, upper).

        Args:
            time: Information time of the look, later than the last.
            lower: Lower boundary, -inf for none.
            upper: Upper boundary, inf for none.
            following: Information time of the next look, to choose the panels; as far again by default.
        """
        centre = self.drift * math.sqrt(time)
        lower, upper = max(lower, centre - _FAR), min(upper, centre + _FAR)
        if not lower < upper:
            return Density(time, self.drift, np.zeros(1), np.zeros(1))
        step = time - self.time
        after = step if following is None else following - time
        width = math.sqrt(min(step, after, time) / time)  # of the narrowest kernel, in units of Z
        nodes, weights = _panels(lower, upper, width)
        root = math.sqrt(step / time)
        scaled = (nodes[:, None] - self._means(time)[None, :] / math.sqrt(time)) / root
        kernel = np.exp(-0.5 * scaled * scaled) / (root * math.sqrt(2.0 * math.pi))
        return Density(time, self.drift, nodes, weights * (kernel @ self.mass))

    def _means(self, time: float) -> Floats:
        """Return the expected score (Z times the root of the time) at `time`, from each node."""
        means: Floats = self.nodes * math.sqrt(self.time) + self.drift * (time - self.time)
        return means


def crossings(
    times: Sequence[float], lower: Sequence[float], upper: Sequence[float], *, drift: float = 0.0
) -> tuple[list[float], list[float]]:
    """Return the chances to cross first at each look: (the lower boundary, the upper one).

    Args:
        times: Information times, increasing, > 0, shape (k,).
        lower: Lower boundaries of Z, shape (k,).
        upper: Upper boundaries of Z, shape (k,).
        drift: Expectation of Z at information time 1.
    """
    density, low, high = Density.start(drift), [], []
    for i, time in enumerate(times):
        low.append(density.below(time, lower[i]))
        high.append(density.above(time, upper[i]))
        if i + 1 < len(times):
            density = density.proceed(time, lower[i], upper[i], following=times[i + 1])
    return low, high


def _panels(lower: float, upper: float, width: float) -> tuple[Floats, Floats]:
    count = max(math.ceil((upper - lower) / (3.0 * width)), 2)
    if count > _PANELS:
        raise InputError("two looks nearly coincide in information: leave one of them out, or wait for more units")
    edges = np.linspace(lower, upper, count + 1)
    half = (upper - lower) / count / 2.0
    nodes = ((edges[:-1] + edges[1:]) / 2.0)[:, None] + half * _NODES[None, :]
    return nodes.ravel(), np.tile(_WEIGHTS * half, count)
