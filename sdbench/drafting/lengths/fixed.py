"""A fixed length: draft as many tokens as the stage's draft length."""

from __future__ import annotations

from sdbench.drafting.lengths.base import LengthPolicy


class Fixed(LengthPolicy):
    """Draft `draft_length` tokens in every round."""
