"""The KV cache: which cells hold what, the tree of shared prefixes, eviction, and KV kept in main memory."""
