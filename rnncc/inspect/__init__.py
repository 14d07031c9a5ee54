"""A look inside: machine code, resources, the roofline, the cells that ship."""
