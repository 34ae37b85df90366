"""Services that refuse what is more than they bear, in the ways of real ones."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable

Service = Callable[[float], float | None]
"""Takes a request at a time; Retry-After in seconds if it refuses."""


def token_bucket(rate: float, burst: float) -> Service:
    tokens, last = burst, 0.0

    def ask(now: float) -> float | None:
        nonlocal tokens, last
        tokens, last = min(burst, tokens + (now - last) * rate), now
        if tokens < 1:
            return math.ceil((1 - tokens) / rate)
        tokens -= 1
        return None

    return ask


def fixed_window(rate: float, window_s: float) -> Service:
    counts: Counter[int] = Counter()

    def ask(now: float) -> float | None:
        window = int(now / window_s)
        counts[window] += 1
        return None if counts[window] <= rate * window_s else (window + 1) * window_s - now

    return ask


def sliding_window(rate: float, window_s: float) -> Service:
    answered: deque[float] = deque()

    def ask(now: float) -> float | None:
        while answered and answered[0] <= now - window_s:
            answered.popleft()
        if len(answered) >= rate * window_s:
            return answered[0] + window_s - now
        answered.append(now)
        return None

    return ask
