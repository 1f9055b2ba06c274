"""Conversations: renders messages to prompts, reads thoughts and tool calls out of answers, and runs tools."""
