"""The names that generated modules import; they stay here, wherever the code behind them moves."""

from rnncc.nn.functional import run, takes_options
from rnncc.nn.layer import CellLayer
from rnncc.paths import folder_of
from rnncc.runtime.kernel import Kernel

__all__ = ["CellLayer", "Kernel", "folder_of", "run", "takes_options"]
