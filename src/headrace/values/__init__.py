"""What crosses threads and rooms: errors, settings, requests, events and results. It has no I/O."""
