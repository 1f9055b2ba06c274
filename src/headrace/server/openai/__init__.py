"""The OpenAI-compatible endpoints: chat, completions, responses and models."""
