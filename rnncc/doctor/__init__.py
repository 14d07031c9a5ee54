"""The doctor: this machine -> findings, each with its fix."""
