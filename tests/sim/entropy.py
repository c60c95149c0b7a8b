"""Randomness of the world's own: nothing that runs in it may draw from the machine's.

Inside `seeded` os.urandom, and with it uuid and secrets, give what the seed says; so does the
module-wide generator of `random`. random.Random() without a seed cannot be caught: it must not be used.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """For as long as a world lasts."""
    drawn = random.Random(f"entropy {seed}")
    before = random.getstate()
    random.seed(f"module {seed}")
    try:
        with patch.object(os, "urandom", drawn.randbytes), patch.object(random, "_urandom", drawn.randbytes):
            yield
    finally:
        random.setstate(before)
