"""What else changes when batch norm moves? The controls of the placement ablation, on the digits.

    python -m experiments run configs/digits_controls.py

With `after`, the input of the classifier is normalized too, and the layers' biases have an effect, which `before`
cancels: directly before a norm a bias changes nothing, down to the last digit. The controls: one more norm in front of
the classifier for `before`; no bias in the layers, for both; no scale and bias in the norms, for both. Data, network,
rates and seeds are those of `configs/digits_placement.py`.

Result (12 seeds, 972 networks in 3 min, cpu x 2 (AMD EPYC), jax 0.10.2, 2026-11-29; files in
experiments/published/digits_controls): test accuracy in percent at the bagged choice, estimate ± standard error; then
differences in percentage points, 95% intervals for new seeds and splits, then for new data, too, and verdicts:

    before                   relu 97.38 ± 0.20    tanh 96.94 ± 0.26
    after                    relu 97.40 ± 0.23    tanh 96.66 ± 0.28
    before + final norm      relu 97.47 ± 0.26    tanh 96.78 ± 0.33
    before, no layer bias    relu 97.38 ± 0.20    tanh 96.94 ± 0.26
    after, no layer bias     relu 97.33 ± 0.22    tanh 96.76 ± 0.30
    before, no affine        relu 97.46 ± 0.17    tanh 96.78 ± 0.32
    after, no affine         relu 97.33 ± 0.25    tanh 96.84 ± 0.26

    relu: after - before = +0.01 [-0.24, 0.27]; [-0.56, 0.59]: equivalent within ±1 pp (TOST p = 0.018 after Holm)
    tanh: after - before = -0.29 [-0.61, 0.04]; [-1.02, 0.45]: for new seeds and splits: equivalent within ±1 pp (TOST p
        = 0.0022 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown (TOST p = 0.19
        after Holm)
    relu: before + final norm - before = +0.09 [-0.31, 0.48]; [-0.79, 0.97]: for new seeds and splits: equivalent within
        ±1 pp (TOST p = 0.0017 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.17 after Holm)
    tanh: before + final norm - before = -0.16 [-0.57, 0.24]; [-1.08, 0.75]: for new seeds and splits: equivalent within
        ±1 pp (TOST p = 0.0022 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.19 after Holm)
    relu: after - before + final norm = -0.07 [-0.49, 0.35]; [-1.01, 0.87]: for new seeds and splits: equivalent within
        ±1 pp (TOST p = 0.0022 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.19 after Holm)
    tanh: after - before + final norm = -0.12 [-0.62, 0.37]; [-1.24, 0.99]: for new seeds and splits: equivalent within
        ±1 pp (TOST p = 0.0038 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.19 after Holm)
    relu: before, no layer bias - before = 0.00 with every seed: no difference at all: neither seed nor bag makes one
    tanh: before, no layer bias - before = 0.00 with every seed: no difference at all: neither seed nor bag makes one
    relu: after, no layer bias - after = -0.06 [-0.32, 0.20]; [-0.64, 0.52]: equivalent within ±1 pp (TOST p = 0.025
        after Holm)
    tanh: after, no layer bias - after = +0.10 [-0.33, 0.53]; [-0.86, 1.06]: for new seeds and splits: equivalent within
        ±1 pp (TOST p = 0.0022 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.19 after Holm)
    relu: before, no affine - before = +0.07 [-0.23, 0.38]; [-0.60, 0.75]: for new seeds and splits: equivalent within
        ±1 pp (TOST p < 0.001 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.059 after Holm)
    tanh: before, no affine - before = -0.16 [-0.74, 0.41]; [-1.46, 1.13]: for new seeds and splits: equivalent within
        ±1 pp (TOST p = 0.0051 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.19 after Holm)
    relu: after, no affine - after = -0.06 [-0.39, 0.26]; [-0.79, 0.67]: for new seeds and splits: equivalent within ±1
        pp (TOST p < 0.001 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.072 after Holm)
    tanh: after, no affine - after = +0.19 [-0.32, 0.70]; [-0.96, 1.34]: for new seeds and splits: equivalent within ±1
        pp (TOST p = 0.0051 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.19 after Holm)
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
