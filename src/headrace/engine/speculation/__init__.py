"""Guessed tokens: from the text itself or from a smaller model, weighed by what they cost."""
