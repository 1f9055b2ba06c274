"""The WebSocket `/ws`: its route, handshake, frames, sessions and sockets, and many streams on each socket."""
