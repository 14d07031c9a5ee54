"""Calculus on cells: CellIR -> Program, Jacobian, adjoint, structure, rematerialization."""
