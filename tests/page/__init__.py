"""Tests of the chat page and the comparison view, in a real browser."""
