"""Histograms of latencies in 96 fixed buckets, four per doubling, from 1 µs to 8 s: pure arithmetic on integers."""

from __future__ import annotations

__all__ = ["BUCKET_COUNT", "bucket_of", "bucket_upper", "quantile"]

BUCKET_COUNT = 96


def bucket_of(micros: int) -> int:
    """Return the histogram bucket of a latency; four per doubling, the last takes everything longer."""
    if micros < 4:
        return max(micros, 0)
    shift = micros.bit_length() - 3
    return min((shift << 2) + (micros >> shift), BUCKET_COUNT - 1)


def bucket_upper(bucket: int) -> int:
    """Return the first latency (µs) above a bucket."""
    if bucket < 4:
        return bucket + 1
    shift = (bucket >> 2) - 1
    return ((bucket & 3) + 5) << shift


def quantile(buckets: tuple[int, ...] | list[int], share: float) -> int:
    """Return the upper end (µs) of the bucket in which the `share` quantile lies, 0 when nothing was counted."""
    wanted, seen = share * sum(buckets), 0
    for bucket, count in enumerate(buckets):
        seen += count
        if count and seen >= wanted:
            return bucket_upper(bucket)
    return 0
