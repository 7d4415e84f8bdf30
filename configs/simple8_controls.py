"""Do padding and the order of pooling change which placement is better? The 8-layer net on small CIFAR-10.

    python -m experiments run configs/simple8_controls.py

Padding with zeros pads with the channel's mean after a norm, but with its minimum after a ReLU. So it means something
else for `after` than for `before`; the control pads by reflection. A block can be pooled after its last step, or right
after its layer, so that the norm sees fewer numbers. Page 2019 (https://github.com/davidcpage/cifar10-fast) reports 0.1
points less for pooling first, with the norm before the activation. This config uses an eighth of the features, 16 x 16
pixels, 12,800 examples and 4 epochs, so these are short trainings of a small network.

Result (16 seeds, 360 networks in 3.2 h, cpu x 1 (Intel(R) Xeon(R) Processor), jax 0.10.2, 2026-11-30; files in
experiments/published/simple8_controls): test accuracy in percent at the bagged choice, estimate ± standard error; then
differences in percentage points, 95% intervals for new seeds, then for new data, too, and verdicts:

    before                relu 55.11 ± 0.21
    after                 relu 55.95 ± 0.24
    before, reflect       relu 53.68 ± 0.19
    after, reflect        relu 54.17 ± 0.22
    before, pool first    relu 53.96 ± 0.19
    after, pool first     relu 55.78 ± 0.25

    placement x padding = -0.35 [-0.89, 0.19]; [-0.89, 0.19]: no detectable interaction; equivalence at ±1 pp not shown
        (TOST p = 0.0543 after Holm)
    placement x pooling = +0.99 [0.25, 1.73]; [0.25, 1.73]: placement x pooling is above 0 by 0.99 pp
    before: reflect - zero padding = -1.43 [-1.80, -1.06]; [-1.83, -1.03]: exploration: before is better by 1.43 pp
    after: reflect - zero padding = -1.78 [-2.27, -1.29]; [-2.28, -1.28]: exploration: after is better by 1.78 pp
    before: pool first - last = -1.15 [-1.52, -0.79]; [-1.52, -0.79]: exploration: before is better by 1.15 pp
    after: pool first - last = -0.16 [-0.81, 0.49]; [-0.81, 0.49]: exploration: equivalent within ±1 pp (TOST p =
        0.0074)
    relu: after - before = +0.84 [0.46, 1.22]; [0.45, 1.23]: after is better by 0.84 pp
    relu: after, reflect - before, reflect = +0.49 [-0.10, 1.08]; [-0.10, 1.08]: no detectable difference; equivalence
        at ±1 pp not shown (TOST p = 0.17 after Holm)
    relu: after, pool first - before, pool first = +1.83 [1.18, 2.48]; [1.17, 2.49]: after, pool first is better by 1.83
        pp
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
    sweep=SweepConfig(lowest_learning_rate=2.0**-3, learning_rate_points=5, seeds=16),
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
