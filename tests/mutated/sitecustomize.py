"""Python imports this file at its start where its folder is on the path: a module is then read from another file, its mutant.

So the processes that a test starts see the mutant too, see `tests/mutation.py`. MUTATED names the module's file, MUTANT the other one.
"""

import os
from importlib.machinery import SourceFileLoader

MODULE, MUTANT = os.environ["MUTATED"], os.environ["MUTANT"]
read = SourceFileLoader.get_data


def get_data(self: SourceFileLoader, path: str) -> bytes:
    """The bytes of a file; the mutant's for those of the module, and no compiled form of it, which is of the file as it is."""
    name = os.path.basename(path)
    if name.endswith(".pyc") and name.split(".")[0] == os.path.basename(MODULE).split(".")[0]:
        raise OSError
    return read(self, MUTANT if path == MODULE else path)


SourceFileLoader.get_data = get_data  # type: ignore[method-assign]
SourceFileLoader.set_data = lambda *_, **__: None  # type: ignore[method-assign]
