"""Exports: CellIR -> other notations: LaTeX, a plain PyTorch loop (the oracle)."""
