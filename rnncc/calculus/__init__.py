"""Calculus on cells: CellIR -> Program, Jacobian, adjoint, structure, and what is recomputed."""
