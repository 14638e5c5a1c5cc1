"""sdbench: a bench on which speculative-decoding ideas are compared fairly."""

__version__ = "0.2.0"
