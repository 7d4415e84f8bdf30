"""Every threshold of the kernels, and where it was measured. All apply to XLA:CPU only.

Measured on two cores of an AMD EPYC and of an Intel Xeon with AVX-512, jax 0.10.2, November 2026: benchmarks/NOTES.md.
"""

import math

from jbn._axes import known

SAMPLED = 64  # a rough mean is the mean of about one element in so many
SMALL = 2**14  # elements; below, plain code is as fast
FEW = 32  # features; XLA unrolls a loop over fewer, and vectorizes it badly
MANY = 64  # features to pack rows into: 1.6 MB in 3 columns are summed in 0.75 ms, in 48 columns in 0.22 ms

# Elements up to which one thread is as fast as two: for half precision with all passes, or with a single one; and for a
# pass with a vector, where the call that materializes the vector would wake a thread.
LITTLE = {"half": SMALL - 1, "half, one pass": 2**16, "vector": 2**16 - 1}
# Elementwise operations that may be recomputed: a norm has 3 to 6, its derivative with an activation's 10 to 30.
MOST = {"result": 8, "derivative": 32}

SLABS = 8  # XLA computes an operand up to 15 times in one loop; with 16 slabs it would write it to memory
WINDOW = 8  # rows; those of thousands of features map to one set of the first-level cache, which holds 8 lines
ENOUGH = SLABS * WINDOW  # rows; with fewer, the slabs would leave more than an eighth


def large(*shape: int) -> bool:
    """Whether an array of this shape is known to have at least SMALL elements."""
    return known(shape) and math.prod(shape) >= SMALL
