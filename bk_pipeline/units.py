"""Conversion factors between units of time, and the range of a signed 64-bit integer."""

from __future__ import annotations

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
MS_PER_S = 1_000
S_PER_HOUR = 3_600
S_PER_DAY = 86_400
NS_PER_MINUTE = 60 * NS_PER_S
NS_PER_HOUR = S_PER_HOUR * NS_PER_S

INT64 = range(-(2**63), 2**63)
