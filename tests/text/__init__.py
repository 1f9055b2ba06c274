"""Tests of `headrace/text/`."""
