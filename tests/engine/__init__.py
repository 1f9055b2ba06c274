"""Tests of the engine's promises, against the scripted runner."""
