"""What all tests share: one thread, no screen, and property tests that draw the same examples every time."""

from __future__ import annotations

import os

# Before NumPy and torch start their thread pools: two pools that spin on the same cores cost a multiple of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from hypothesis import settings

settings.register_profile("perturbia", deadline=None, derandomize=True)
settings.load_profile("perturbia")
