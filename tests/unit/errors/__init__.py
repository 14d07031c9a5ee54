"""Errors: every message of the front end, word for word, with its fix."""
