"""The engine: many sequences, one batch a step, on one thread."""
