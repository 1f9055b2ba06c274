"""Tests of `headrace/server/websocket/`."""
