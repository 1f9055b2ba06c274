"""Tests of `headrace/server/http/`."""
