"""HTTP itself: bodies, server-sent events, clients that leave, keys, ids and errors, bounds of the protocol."""
