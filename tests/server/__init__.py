"""Tests of the server, against the scripted runner."""
