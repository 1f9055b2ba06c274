"""Tests of `headrace/chat/`."""
