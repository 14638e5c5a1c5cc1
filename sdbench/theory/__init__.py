"""Closed formulas of papers, in numpy alone. Analysis, the simulator and the speculation server use them."""
