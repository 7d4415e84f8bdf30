"""Do padding and the order of pooling change which placement is better? The 8-layer net on small CIFAR-10.

    python -m experiments run configs/simple8_controls.py

Padding with zeros pads with the channel's mean after a norm, but with its minimum after a ReLU. So it means something
else for `after` than for `before`; the control pads by reflection. A block can be pooled after its last step, or right
after its layer, so that the norm sees fewer numbers. Page 2019 (https://github.com/davidcpage/cifar10-fast) reports 0.1
points less for pooling first, with the norm before the activation. This config uses an eighth of the features, 16 x 16
pixels, 12,800 examples and 4 epochs, so these are short trainings of a small network.

Result (by the former procedure, see docs/what-changed.md: not quoted here).
"""

from experiments.config import (
    AnalysisConfig,
    Config,
    Contrast,
    DataConfig,
    ModelConfig,
    ProbesConfig,
    SweepConfig,
    TrainingConfig,
    vary,
)

BEFORE, AFTER = {"model.placement": "before"}, {"model.placement": "after"}
REFLECT, FIRST = {"model.padding": "reflect"}, {"model.pooling": "before_norm"}


def placement_times(what: str, changed: str) -> Contrast:
    """Whether after - before is larger with the change than without it."""
    return Contrast(
        f"placement x {what}",
        {f"after, {changed}/relu": 1, f"before, {changed}/relu": -1, "after/relu": -1, "before/relu": 1},
    )


CONFIG = Config(
    name="simple8_controls",
    question="8-layer net on small CIFAR-10: do padding and pooling order matter to where batch norm sits?",
    placements=("before", "after"),
    treatments=(
        vary("before, reflect", {**BEFORE, **REFLECT}),
        vary("after, reflect", {**AFTER, **REFLECT}),
        vary("before, pool first", {**BEFORE, **FIRST}),
        vary("after, pool first", {**AFTER, **FIRST}),
    ),
    activations=("relu",),
    data=DataConfig(name="cifar10", standardize="channel", shrink=2, train_examples=12800, validation_fraction=0.1),
    model=ModelConfig(network="simple8", width=0.125),
    training=TrainingConfig(batch_size=128, epochs=4),
    probes=ProbesConfig(seeds=1, examples=512),
    sweep=SweepConfig(lowest_learning_rate=2.0**-3, learning_rate_points=5, seeds=8),
    analysis=AnalysisConfig(
        contrasts=(
            placement_times("padding", "reflect"),
            placement_times("pooling", "pool first"),
            Contrast("before: reflect - zero padding", {"before, reflect/relu": 1, "before/relu": -1}, primary=False),
            Contrast("after: reflect - zero padding", {"after, reflect/relu": 1, "after/relu": -1}, primary=False),
            Contrast("before: pool first - last", {"before, pool first/relu": 1, "before/relu": -1}, primary=False),
            Contrast("after: pool first - last", {"after, pool first/relu": 1, "after/relu": -1}, primary=False),
        ),
        pairs=(("after", "before"), ("after, reflect", "before, reflect"), ("after, pool first", "before, pool first")),
    ),
)
