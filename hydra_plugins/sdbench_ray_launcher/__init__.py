"""Provide a Hydra launcher for Ray."""
