"""Tests of `headrace/llama/`."""
