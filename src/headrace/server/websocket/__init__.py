"""The WebSocket `/ws`: its frames, its connections, and many streams on each."""
