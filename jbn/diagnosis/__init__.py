"""Why evaluation is worse than training: what each batch norm of a model does to it.

`jbn.diagnose` takes a model with anybody's batch norm, compares the running statistics of each layer with those of the
data, and returns a `Diagnosis` with a table, a figure and findings, each of which is a `Finding`.
"""

from jbn.diagnosis._evidence import Finding as Finding
from jbn.diagnosis._layers import LayerReport as LayerReport
from jbn.diagnosis._report import Diagnosis as Diagnosis

__all__ = ["Diagnosis", "Finding", "LayerReport"]
