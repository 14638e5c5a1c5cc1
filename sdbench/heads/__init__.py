"""Heads: trained drafters that read the hidden states of a target. Their modules, their configs and their files."""
