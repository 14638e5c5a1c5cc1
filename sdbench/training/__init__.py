"""Train draft models and families."""
