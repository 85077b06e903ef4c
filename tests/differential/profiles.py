"""How many random programs are run: always the same few hundred, or `RONDEL_EXAMPLES` new ones."""

import os

from hypothesis import HealthCheck, settings

#: The number of new random programs per test; 0 means the fixed ones.
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
