"""Structured output: JSON schemas, regular expressions and grammars that restrict it, and parsing of growing JSON."""
