"""Models that run with other statistics than theirs, while the moments of every batch norm are measured.

`_layer` says what a layer does meanwhile; `_linen`, `_nnx` and `_equinox` find the layers of a model and take the
values in and out. `jbn.population` and `jbn.diagnosis` are algorithms over them.
"""
