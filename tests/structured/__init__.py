"""Tests of `headrace/structured/`."""
