"""Compare ideas for speculative decoding fairly."""

__version__ = "0.2.0"
