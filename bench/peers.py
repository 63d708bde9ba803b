"""Single modules out of other packages, imported from build/peers without the dozens of dependencies that the packages want."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from collections.abc import MutableSequence
from typing import Any

from bench.machine import PEERS


class _Absent(types.ModuleType):
    """Stands in for a module that isn't installed; whatever is taken from it is a class that nothing calls."""

    __path__: MutableSequence[str] = []  # noqa: RUF012 - a package, as far as the import system is concerned

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Stubs:
    """A finder of last resort for the packages in ``names``."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        known = name.partition(".")[0] in self.names
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def available() -> bool:
    return PEERS.is_dir()


def load(module: str, path: str | None = None) -> Any:
    """The module called ``module``, or the file at ``path`` under build/peers where the package's own ``__init__`` wants too much."""
    if module in sys.modules:
        return sys.modules[module]
    stubs = _Stubs()
    sys.path.append(str(PEERS))
    sys.meta_path.append(stubs)
    try:
        while True:
            try:
                return importlib.import_module(module) if path is None else _from_file(module, path)
            except ModuleNotFoundError as error:
                missing = (error.name or "").partition(".")[0]
                if not missing or missing in stubs.names or missing == module.partition(".")[0]:
                    raise
                stubs.names.add(missing)
    finally:
        sys.meta_path.remove(stubs)
        sys.path.remove(str(PEERS))
        for name in [name for name, loaded in sys.modules.items() if isinstance(loaded, _Absent)]:
            del sys.modules[name]


def _from_file(module: str, path: str) -> types.ModuleType:
    """Without the file's assertions: some insist on a GPU."""
    file = PEERS / path
    found = types.ModuleType(module)
    found.__file__ = str(file)
    sys.modules[module] = found  # Triton reads the source of a kernel through its module
    try:
        exec(compile(file.read_bytes(), str(file), "exec", optimize=1), found.__dict__)
    except BaseException:
        del sys.modules[module]
        raise
    return found
