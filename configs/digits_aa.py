"""An A/A test: does the whole pipeline find a difference where there is none?

    python -m experiments run configs/digits_aa.py

Each arm is trained, tuned and tested twice, with disjoint seeds. Any difference is chance, and the 95% intervals should
cover 0 in 95 of 100 such tests. (Two published runs of one arm, with settings that were meant to be equal, differed by
3.2 points.)

Result (by the former procedure, see docs/what-changed.md: not quoted here).
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
