"""What steps cost on this machine, and how many threads compute them."""
