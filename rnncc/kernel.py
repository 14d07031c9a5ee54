"""Where generated modules of earlier versions import from: they are told to be regenerated."""

from rnncc.errors import LoadError

raise LoadError(
    "rnncc.kernel: only a folder that an earlier version of rnncc generated imports it.\n"
    "Fix: regenerate the folder with rnncc compile"
)
