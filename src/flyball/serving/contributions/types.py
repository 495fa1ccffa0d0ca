"""What an explanation is: a base value and one number per feature, which add up to the model's margin.

The surprise: for a classifier the numbers do not add up to a probability. Contributions of trees and linear models are
additive before the link function, so `space` says which scale they live on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from flyball.errors import IntegrityError

__all__ = ["Explained", "Method", "Space"]

Method = Literal["tree", "linear", "sampled"]
Space = Literal["prediction", "log-odds", "log", "score", "probability"]


@dataclass(frozen=True, slots=True)
class Explained:
    """Contributions to `n` answers of `c` outputs by `k` features, float64.

    `base` (c,) is the mean answer over the background, `values` (n, k, c); base + values.sum(1) is the margin of each
    answer on the scale `space`. A sampled explanation carries `errors` (n, k, c), the standard errors of `values` (NaN
    when a single sample was drawn), and how many `samples` were drawn; an exact one has None and 0.
    """

    base: np.ndarray
    values: np.ndarray
    method: Method
    space: Space
    errors: np.ndarray | None = None
    samples: int = 0

    @property
    def margin(self) -> np.ndarray:
        """What base and contributions add up to, (n, c)."""
        return np.asarray(self.base + self.values.sum(axis=1))

    def pack(self) -> list[Any]:
        """Return plain values for a socket."""
        errors = None if self.errors is None else np.ascontiguousarray(self.errors, dtype="<f8").tobytes()
        return [
            self.method, self.space, self.samples, list(self.values.shape),
            np.ascontiguousarray(self.base, dtype="<f8").tobytes(),
            np.ascontiguousarray(self.values, dtype="<f8").tobytes(), errors,
        ]  # fmt: skip

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """Read what `pack` wrote.

        Raises:
            IntegrityError: the parts do not fit each other; they come from another process.
        """
        try:
            method, space, samples, shape, base, values, errors = packed
            n, k, c = (int(size) for size in shape)
            return cls(
                np.frombuffer(base, dtype="<f8").reshape(c), _cube(values, n, k, c), method, space,
                None if errors is None else _cube(errors, n, k, c), int(samples),
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise IntegrityError(f"the host's explanation does not read: {error}") from error


def _cube(data: bytes, n: int, k: int, c: int) -> np.ndarray:
    return np.frombuffer(data, dtype="<f8").reshape(n, k, c)
