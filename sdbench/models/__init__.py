"""Load models: find a source, check it, read its weights, estimate its memory."""
