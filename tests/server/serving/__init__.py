"""Tests of `headrace/server/serving/`."""
