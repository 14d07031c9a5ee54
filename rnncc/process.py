"""Process: the one that imported rnncc; a fork has another number."""

import os

IMPORTED_IN = os.getpid()
