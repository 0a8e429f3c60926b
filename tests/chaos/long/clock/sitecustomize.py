"""Puts a function's clock ahead by CLOCK_AHEAD seconds: imported by Python at its start.

A test puts this file's folder on a function's PYTHONPATH. Nothing of the product knows of it.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

_MODULE = "marketdata.clock"


class _Finder(MetaPathFinder):
    """Finds the library's clock, and sets it when it is loaded."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_set(module: Any) -> None:
            load(module)
            true_now, ahead = module.now, timedelta(seconds=float(os.environ["CLOCK_AHEAD"]))

            def now() -> datetime:
                told: datetime = true_now() + ahead
                return told

            module.now = now

        spec.loader.exec_module = load_and_set  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
