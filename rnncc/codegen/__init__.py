"""Code generation: the calculus' results -> the text of a generated folder."""
