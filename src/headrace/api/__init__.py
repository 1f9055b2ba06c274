"""The public API: models, contexts, streams and conversations, for threads and for asyncio tasks."""
