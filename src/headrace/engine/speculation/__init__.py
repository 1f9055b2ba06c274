"""Guessed tokens: from the text itself or from a draft model, tried where they save time."""
