"""Tests of `headrace/cli/`."""
