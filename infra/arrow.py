"""What a process settles about pyarrow before it works."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Refusal(MetaPathFinder, Loader):
    """Finds pandas, so that who only asks whether it is there may go on, and fails to import it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(fullname, self) if fullname == "pandas" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        raise ModuleNotFoundError("this process does without pandas", name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError(f"{module} was never made")


def forgo_pandas() -> None:
    """Have this process take it that pandas can't be imported.

    At its first conversions pyarrow imports pandas, to recognise its columns; nothing here has any. The embedded
    ClickHouse brings pandas along, and importing it costs a process more than importing all else.
    """
    sys.meta_path.insert(0, _Refusal())
