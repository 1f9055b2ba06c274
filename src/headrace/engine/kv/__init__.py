"""The KV cache: which row holds which cells, shared prefixes, eviction, and offloading to main memory."""
