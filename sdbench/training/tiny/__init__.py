"""The tiny family: its texts, tokenizer, networks and schedule, and what is measured of it."""
