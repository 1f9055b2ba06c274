"""Text: tokens' bytes to characters, stop sequences, and chat templates; no I/O and no engine."""
