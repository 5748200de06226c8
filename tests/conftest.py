"""Settings for all tests."""

from __future__ import annotations

import os

# Before torch is imported: two test processes with one thread each beat two with all cores each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("honne", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("honne")
