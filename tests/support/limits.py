"""How much slower than a quiet machine this one is: limits of tests are multiplied by it, nothing else is."""

import os

SLOWNESS = float(os.environ.get("DAYBOOK_TEST_SLOWNESS", "1"))
"""1 on a machine of one's own; a guest whose CPU is emulated needs about 10."""
