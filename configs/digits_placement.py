"""Batch norm before or after the activation, or none at all, on real digits?

    make ablation            or: python -m experiments run configs/digits_placement.py

An MLP 64-100-100-100-10 on scikit-learn's 1,797 handwritten digits (1,078 to train, 269 to choose the learning rate,
450 to test), SGD with momentum 0.9, batch 60, 20 epochs, cosine schedule, no weight decay. For each of 9 arms: 8
learning rates a factor 2 apart, 3 seeds each, chosen by validation accuracy; then 24 fresh seeds at the chosen rate,
paired across arms by initial weights and batch order.
"""

from experiments.config import Config

CONFIG = Config(
    name="digits_placement",
    question="Does batch norm belong before or after the activation, or nowhere, in a small MLP on handwritten digits?",
)
