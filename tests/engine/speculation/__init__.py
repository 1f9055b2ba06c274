"""Tests of `headrace/engine/speculation/`."""
