"""Tests of what users copy from: the documentation and `examples/`."""
