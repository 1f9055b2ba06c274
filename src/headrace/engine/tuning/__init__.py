"""Measured step times on this machine, and the number of compute threads for each step."""
