"""The WebSocket `/ws`, which carries many streams at once: its route, handshake, frames, sessions and sockets."""
