"""Every threshold of the kernels, with where it was measured. All are of XLA:CPU; no other platform is told anything.

Measured on two cores of an AMD EPYC and of an Intel Xeon with AVX-512, jax 0.10.2, November 2026: benchmarks/NOTES.md.
"""

import math

from jbn._axes import known

SAMPLED = 64  # a rough mean is that of about one element in so many
SMALL = 2**14  # for fewer elements the plain way is as fast
FEW = 32  # features: a loop over fewer is unrolled, and badly vectorized
MANY = 64  # features that rows of fewer are packed into: 1.6 MB in 3 columns are summed in 0.75 ms, in 48 in 0.22

# Elements up to which one thread is as fast as two: of half precision, with all passes and with one alone,
# and beside a vector, where nothing else wakes a thread, and several calls would.
LITTLE = {"half": SMALL - 1, "half, one pass": 2**16, "vector": 2**16 - 1}
# Operations on each element that may be done anew: a norm has 3 to 6, its derivative beside an activation 10 to 30.
MOST = {"result": 8, "derivative": 32}

SLABS = 8  # XLA computes an operand up to 15 times in one loop, and with 16 slabs would write it to memory instead
WINDOW = 8  # rows of thousands of features map to the same set of the first-level cache, which holds eight lines
ENOUGH = SLABS * WINDOW  # rows: of fewer, slabs would leave more than an eighth


def large(*shape: int) -> bool:
    """Whether an array of this shape is known to have enough elements for more than the plain way."""
    return known(shape) and math.prod(shape) >= SMALL
