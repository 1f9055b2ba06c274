"""Tests of `headrace/engine/kv/`."""
