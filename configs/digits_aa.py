"""An A/A test: does the whole pipeline find a difference where there is none?

    python -m experiments run configs/digits_aa.py

Each arm is tuned and evaluated twice, with disjoint seeds. Any difference is chance, and the 95% intervals should cover
0 in 95 of 100 such tests. (Two published runs of one arm, with settings that were meant to be equal, differed by 3.2
points.)

Result (n = 21 an arm, two CPU cores, jax 0.10.2, 42 s, last reproduced 2026-11-26), again - once, percentage points:

    before    relu -0.24 [-0.50, 0.01]    tanh +0.07 [-0.22, 0.36]    sigmoid +0.03 [-0.23, 0.30]
    after     relu -0.29 [-0.66, 0.09]    tanh -0.02 [-0.40, 0.36]    sigmoid +0.05 [-0.30, 0.40]

All six intervals cover 0. Files in experiments/published/digits_aa.
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
