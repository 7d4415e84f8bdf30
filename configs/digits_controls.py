"""What else changes when batch norm moves? The controls of the placement ablation, on the digits.

    python -m experiments run configs/digits_controls.py

With `after`, the input of the classifier is normalized too, and the layers' biases have an effect, which `before`
cancels. The controls: one more norm in front of the classifier for `before`; no bias in the layers, for both; no scale
and bias in the norms, for both. Data, network, tuning and seeds are those of `configs/digits_placement.py`.

Result (n = 21, two CPU cores, jax 0.10.2, 106 s, last reproduced 2026-11-26), percentage points; files in
experiments/published/digits_controls:

    after - before                     relu -0.12 [-0.42, 0.19]    tanh +0.12 [-0.03, 0.26]
    before + final norm - before       relu -0.25 [-0.50, -0.01]   tanh -0.04 [-0.25, 0.16]
    before, no layer bias - before     relu 0.00, every seed       tanh 0.00, every seed
    after, no layer bias - after       relu +0.20 [-0.18, 0.58]    tanh -0.01 [-0.06, 0.04]
    before, no affine - before         relu +0.02 [-0.20, 0.24]    tanh +0.04 [-0.06, 0.14]
    after, no affine - after           relu -0.17 [-0.41, 0.07]    tanh -0.06 [-0.17, 0.04]

All are equivalent within 1 pp (TOST). Directly before a norm the layer's bias has no effect, down to the last digit.
"""

from experiments.config import AnalysisConfig, Config, SweepConfig, TrainingConfig, vary

BEFORE, AFTER = {"model.placement": "before"}, {"model.placement": "after"}
NO_AFFINE = {"model.norm_scale": False, "model.norm_bias": False}

CONFIG = Config(
    name="digits_controls",
    question="Final norm, layer bias, scale and bias: does any of them matter to where batch norm sits?",
    placements=("before", "after"),
    treatments=(
        vary("before + final norm", {**BEFORE, "model.final_norm": True}),
        vary("before, no layer bias", {**BEFORE, "model.use_bias": False}),
        vary("after, no layer bias", {**AFTER, "model.use_bias": False}),
        vary("before, no affine", {**BEFORE, **NO_AFFINE}),
        vary("after, no affine", {**AFTER, **NO_AFFINE}),
    ),
    activations=("relu", "tanh"),
    training=TrainingConfig(batch_size=60, epochs=12, steps="scan", lanes="vmap"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=12),
    analysis=AnalysisConfig(
        pairs=(
            ("after", "before"),
            ("before + final norm", "before"),
            ("after", "before + final norm"),
            ("before, no layer bias", "before"),
            ("after, no layer bias", "after"),
            ("before, no affine", "before"),
            ("after, no affine", "after"),
        ),
    ),
)
