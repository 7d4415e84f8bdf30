"""What else changes when batch norm moves? The controls of the placement ablation, on the digits.

    python -m experiments run configs/digits_controls.py

With `after`, the input of the classifier is normalized too, and the layers' biases have an effect, which `before`
cancels: directly before a norm a bias changes nothing, down to the last digit. The controls: one more norm in front of
the classifier for `before`; no bias in the layers, for both; no scale and bias in the norms, for both. Data, network,
rates and seeds are those of `configs/digits_placement.py`.

Result (by the former procedure, see docs/what-changed.md: not quoted here).
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
