"""The steps: a module for each, with `run(sink, setting)`."""
