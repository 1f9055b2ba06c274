"""Structured output: JSON schemas, regular expressions and grammars to generate by, and JSON that is still growing."""
