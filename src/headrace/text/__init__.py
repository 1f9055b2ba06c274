"""Text: from the bytes of tokens to characters, and stop sequences. No I/O and no engine."""
