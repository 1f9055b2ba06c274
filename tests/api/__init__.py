"""Tests of `headrace/api/`."""
