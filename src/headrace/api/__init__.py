"""The public API: models, contexts, streams and conversations, each for threads and for tasks."""
