"""HTTP itself: routes, bodies, server-sent events, disconnects, API keys, request ids, errors, and limits."""
