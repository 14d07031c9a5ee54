"""The GPU campaign: all that needs a GPU, in steps, each a process with a time limit of its own."""
