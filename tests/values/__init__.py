"""Tests of `headrace/values/`."""
