"""Tests of what is written in JavaScript."""
