"""The language of cells: a Python function under `@cell` -> CellIR."""
