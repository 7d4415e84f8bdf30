"""All that touches a run folder: what its files hold, how they are read, checked, written and published. Imports no jax."""
