"""One clock for the whole package, and the Date of responses."""

import time

clock = time.perf_counter
