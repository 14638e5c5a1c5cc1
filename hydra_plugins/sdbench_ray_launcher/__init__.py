"""A Hydra launcher for Ray."""
