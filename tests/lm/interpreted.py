"""A fast mode without a compiler."""

from sdbench.lm.execution import Programs


class Interpreted(Programs):
    """Programs that are the traced function itself: what a compiler is given, without the compiler."""

    name = "interpreted"

    def make(self, lm, inputs):
        self.made += 1
        module, first, layers = inputs.module(lm), len(inputs.own), lm.layers
        own = first + len(inputs.masks)
        return lambda given: list(
            module(given[:first], given[first:own], given[own : own + layers], given[own + layers :])
        )
