"""llama.cpp behind a typed border: the only package that imports `llama_cpp`."""
