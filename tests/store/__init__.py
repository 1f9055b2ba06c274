"""Tests of `headrace/store/`."""
