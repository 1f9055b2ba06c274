"""Tests of `headrace/bench/`."""
