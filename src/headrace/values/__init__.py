"""Values that cross threads and rooms: errors, settings, requests, events and results. No I/O."""
