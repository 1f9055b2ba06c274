"""Conversations: what makes a prompt of messages, and thoughts, tool calls and turns of an output."""
