"""The OpenAI-compatible endpoints: chat, completions, responses and models, with the types of their requests."""
