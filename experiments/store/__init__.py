"""All that touches a run folder: what its files hold; reading, checking, writing, publishing. Imports no jax."""
