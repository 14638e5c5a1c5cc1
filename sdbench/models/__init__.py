"""Load models: find a source, check the source, read its weights and estimate its memory."""
