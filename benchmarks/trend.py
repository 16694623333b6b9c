"""A straight line through samples, with the error of its slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HOUR = 3600.0
_BLOCKS = 20
_LEAST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What a line says of samples.

    Attributes:
        mean: of the samples.
        per_hour: how much they grow.
        error: the standard error of `per_hour`.
    """

    mean: float
    per_hour: float
    error: float


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """The least squares line through the means of up to 20 blocks of samples.

    Samples a second apart resemble each other, and the error of a line through them would be far too small. The means
    of long blocks are as good as independent.
    """
    size = max(1, math.ceil(len(seconds) / _BLOCKS))
    blocks = range(0, len(seconds), size)
    x = [fmean(seconds[at : at + size]) / HOUR for at in blocks]
    y = [fmean(values[at : at + size]) for at in blocks]
    if len(x) < _LEAST:
        raise ValueError(f"{len(seconds)} samples are too few for a line with an error")
    middle, mean = fmean(x), fmean(y)
    spread = sum((one - middle) ** 2 for one in x)
    slope = sum((one - middle) * (other - mean) for one, other in zip(x, y, strict=True)) / spread
    residuals = sum((other - mean - slope * (one - middle)) ** 2 for one, other in zip(x, y, strict=True))
    return Trend(mean=fmean(values), per_hour=slope, error=math.sqrt(residuals / (len(x) - 2) / spread))
