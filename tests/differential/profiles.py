"""How many random programs are tried: always the same few hundred, or `RONDEL_EXAMPLES` new ones."""

import os

from hypothesis import HealthCheck, settings

#: New random programs for each test; 0 for those that are always the same.
EXAMPLES = int(os.environ.get("RONDEL_EXAMPLES", "0"))

settings.register_profile("fixed", derandomize=True, max_examples=500, deadline=None, database=None)
settings.register_profile(
    "long",
    max_examples=EXAMPLES or 1,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
settings.load_profile("long" if EXAMPLES else "fixed")
