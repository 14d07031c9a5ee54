"""The layers of the cells in cells/, as `make golden` writes them."""
