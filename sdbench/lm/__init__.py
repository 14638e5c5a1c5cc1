"""A language model that can be stepped: weights, slots, execution."""
