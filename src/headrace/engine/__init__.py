"""The engine: one thread that runs many sequences on one model, with one batch per step."""
