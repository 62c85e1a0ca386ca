from __future__ import annotations

from hypothesis import settings

# A shared machine may be slow: a slow example proves nothing.
settings.register_profile("unit", max_examples=200, deadline=None)
settings.load_profile("unit")
