"""Measurements inside a network: pure functions of arrays, parameters and losses."""
