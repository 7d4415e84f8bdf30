"""An A/A test: does the whole pipeline find a difference where there is none?

    python -m experiments run configs/digits_aa.py

Each arm is trained, tuned and tested twice, with disjoint seeds. Any difference is chance, and the 95% intervals should
cover 0 in 95 of 100 such tests. (Two published runs of one arm, with settings that were meant to be equal, differed by
3.2 points.)

Result (12 seeds, 792 networks in 3 min, cpu x 2 (AMD EPYC), jax 0.10.2, 2026-11-29; files in
experiments/published/digits_aa): test accuracy in percent at the bagged choice, estimate ± standard error; then
differences in percentage points, 95% intervals for new seeds and splits, and verdicts:

    relu       before 97.38 ± 0.20    before again 97.59 ± 0.13    after 97.40 ± 0.23    after again 97.54 ± 0.23
    tanh       before 96.94 ± 0.26    before again 96.73 ± 0.25    after 96.66 ± 0.28    after again 96.94 ± 0.26
    sigmoid    before 96.54 ± 0.23    before again 96.19 ± 0.20    after 96.76 ± 0.22    after again 96.83 ± 0.29

    relu: before again - before = +0.21 [-0.30, 0.71]: the same arm twice, with disjoint seeds: its interval covers 0,
        as it should
    tanh: before again - before = -0.21 [-0.95, 0.53]: the same arm twice, with disjoint seeds: its interval covers 0,
        as it should
    sigmoid: before again - before = -0.35 [-0.97, 0.28]: the same arm twice, with disjoint seeds: its interval covers
        0, as it should
    relu: after again - after = +0.14 [-0.53, 0.81]: the same arm twice, with disjoint seeds: its interval covers 0, as
        it should
    tanh: after again - after = +0.29 [-0.51, 1.09]: the same arm twice, with disjoint seeds: its interval covers 0, as
        it should
    sigmoid: after again - after = +0.07 [-0.70, 0.84]: the same arm twice, with disjoint seeds: its interval covers 0,
        as it should
"""

from experiments.config import AnalysisConfig, Config, SweepConfig, TrainingConfig, vary

CONFIG = Config(
    name="digits_aa",
    question="The same arm twice, with disjoint seeds, through the whole pipeline: is there a difference?",
    placements=(),
    treatments=(
        vary("before", {"model.placement": "before"}),
        vary("before again", {"model.placement": "before"}, first_seed=1000),
        vary("after", {"model.placement": "after"}),
        vary("after again", {"model.placement": "after"}, first_seed=1000),
    ),
    training=TrainingConfig(batch_size=60, epochs=12, steps="scan", lanes="vmap"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=12),
    analysis=AnalysisConfig(pairs=(("before again", "before"), ("after again", "after"))),
)
