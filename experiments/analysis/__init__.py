"""From records to an answer: tuning, comparisons, power, verdicts, and what a reader must be warned of. Imports no jax."""
