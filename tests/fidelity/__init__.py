"""Shipped cells against independent implementations and known facts of their sources."""
