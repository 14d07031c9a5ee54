"""Data that flows between stages, frozen and without torch: programs, functions, inits, specs."""
