"""The CPU backend: C++ text -> a library, and calls of it."""
