"""Tests of `headrace/server/openai/`."""
