"""The kernels as they are told to XLA, by primitives and derivatives of their own."""

from jbn._kernels.materialize import fusion_barrier as fusion_barrier
from jbn._kernels.materialize import materialize_vector as materialize_vector
from jbn._kernels.materialize import scale_over_root as scale_over_root
from jbn._kernels.materialize import upcast as upcast
from jbn._kernels.materialize import upcast_once as upcast_once
from jbn._kernels.passes import affine as affine
from jbn._kernels.passes import power_sums as power_sums
