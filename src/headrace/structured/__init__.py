"""Outputs with a form: JSON schemas, regular expressions and grammars, and JSON that is still growing."""
