"""Tests of `headrace/engine/tuning/`."""
