"""llama.cpp with types and checked errors: the only package that imports `llama_cpp`."""
