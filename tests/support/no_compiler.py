"""The C++ compiler of tests that must not build: it says so, and fails."""

import sys

sys.exit(f"error: {sys.argv[1]}")
