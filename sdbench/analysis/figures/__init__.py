"""Figures, drawn from `summary.json` alone (matplotlib). `draw.draw` writes every figure that a summary has numbers for."""
