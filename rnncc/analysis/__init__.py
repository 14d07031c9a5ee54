"""Analysis: how a cell behaves on random inputs, and pictures of it."""
