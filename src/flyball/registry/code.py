"""The project's Python files by digest, and modules imported from such a snapshot.

The surprise: a module from a snapshot lives under a package named for the digest (`flyball_code_1a2b....helpers`), and
its own imports of sibling files are sent there too. So two versions of one project run side by side in a process,
nothing touches `sys.path`, and a pickled class is found again in exactly the code it was made by.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

from flyball.errors import ConfigError, DefinitionError, FlyballError, IntegrityError
from flyball.layout import CATALOG_LOCK, Layout

__all__ = ["code_digest", "forget_code", "install_code", "load_definitions", "project_files", "snapshot_code"]

PREFIX = "flyball_code_"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SKIP = frozenset({"__pycache__", "node_modules", "site-packages"})
_installing = threading.Lock()


def project_files(root: Path, state: Path | None = None) -> Iterator[Path]:
    """Yield every *.py below `root` in order of its relative path, without hidden folders, environments and state."""
    found = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(f for f in folders if _wanted(here / f, state))
        found += [here / name for name in names if name.endswith(".py") and not name.startswith(".")]
    yield from sorted(found, key=lambda path: path.relative_to(root).as_posix())


def code_digest(root: Path, layout: Layout | None = None) -> str:
    """Return the SHA-256 over names and bytes of the project's Python files and of flyball.catalog.lock."""
    return _digest_of(_read(root, layout))


def snapshot_code(root: Path, layout: Layout) -> str:
    """Copy the project's Python files to layout.code/DIGEST/ once, atomically, and return the digest.

    Raises:
        IntegrityError: the snapshot of that digest was changed after it was written.
    """
    files = _read(root, layout)
    digest = _digest_of(files)
    target = layout.code / digest
    if target.exists():
        _verify(target)
        return digest
    draft = layout.code / f".{digest}.{os.getpid()}.{threading.get_ident()}"
    for name, data in files.items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).write_bytes(data)
    draft.mkdir(parents=True, exist_ok=True)
    try:
        draft.rename(target)
    except OSError:  # another process was faster with the same content
        if not target.exists():
            raise
        shutil.rmtree(draft)
    return digest


def load_definitions(folder: Path, module_file: str) -> ModuleType:
    """Import a module from a code folder under a unique name; sibling imports work.

    Args:
        folder: A snapshot (layout.code/DIGEST), whose content is verified, or a project's root.
        module_file: The module's path within it, such as "definitions.py".

    Raises:
        ConfigError: there is no such file.
        DefinitionError: the module raised while it ran; names file, line and cause.
    """
    path = folder / module_file
    if not path.is_file():
        raise ConfigError(
            f"there is no {module_file} in {folder}; set project.definitions in flyball.toml to your module"
        )
    name = f"{install_code(folder)}.{module_file.removesuffix('.py').replace('/', '.')}"
    try:
        return importlib.import_module(name)
    except DefinitionError as error:
        raise type(error)(f"{_where(error, folder, module_file)}: {error}") from error
    except FlyballError:
        raise
    except SyntaxError as error:
        where = f"{Path(error.filename or module_file).name} line {error.lineno}"
        raise DefinitionError(f"{where} is not valid Python: {error.msg}; correct it and try again") from error
    except Exception as error:
        raise DefinitionError(
            f"{_where(error, folder, module_file)} raised {type(error).__name__}: {error}; correct it and try again"
        ) from error


def install_code(folder: Path) -> str:
    """Make a code folder importable and return the name of its package, `flyball_code_` and 16 digits of the digest.

    A project's root becomes `flyball_code_live_...`, apart from the snapshot of the same content: it may change.

    Raises:
        IntegrityError: the folder is a snapshot whose content does not fit its digest.
    """
    folder = folder.resolve()
    kept = _DIGEST.fullmatch(folder.name) is not None
    digest = folder.name if kept else code_digest(folder)
    package = PREFIX + ("" if kept else "live_") + digest[:16]
    with _installing:
        if package in sys.modules:
            return package
        if kept:
            _verify(folder)
        module = ModuleType(package, f"Code snapshot {digest}.")
        module.__path__ = [str(folder)]
        sys.modules[package] = module
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    return package


def forget_code(module: ModuleType) -> None:
    """Have the code folder of a module run again when it is loaded next; what was made of it stays as it is."""
    package = module.__name__.partition(".")[0]
    with _installing:
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]


class _Finder:
    """Find modules below `flyball_code_...` packages."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del target
        if not name.startswith(PREFIX) or path is None:
            return None
        stem = name.rpartition(".")[2]
        for base in map(Path, path):
            package = base / stem / "__init__.py"
            file = package if package.is_file() else base / f"{stem}.py"
            if file.is_file():
                loader = _Loader(name, str(file))
                search = [str(base / stem)] if file is package else None
                return importlib.util.spec_from_file_location(
                    name, file, loader=loader, submodule_search_locations=search
                )
            if (base / stem).is_dir():
                spec = ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [str(base / stem)]
                return spec
        return None


class _Loader(SourceFileLoader):
    """Run a module with an `import` that knows its siblings; writes no bytecode into the snapshot."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        own = dict(vars(builtins))
        own["__import__"] = _importer(package, Path(sys.modules[package].__path__[0]))
        vars(module)["__builtins__"] = own
        super().exec_module(module)

    def set_data(self, path: str, data: object, *, _mode: int = 0o666) -> None:
        del path, data, _mode


def _importer(package: str, folder: Path) -> object:
    """Return an `__import__` for which the files of `folder` come before everything else."""
    plain = builtins.__import__

    def find(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        first = name.partition(".")[0]
        if level or not ((folder / f"{first}.py").is_file() or (folder / first / "__init__.py").is_file()):
            return plain(name, globals, locals, fromlist or (), level)
        if fromlist:
            return plain(f"{package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{package}.{name}")
        return sys.modules[f"{package}.{first}"]

    return find


def _wanted(folder: Path, state: Path | None) -> bool:
    if folder.name.startswith(".") or folder.name in _SKIP or (folder / "pyvenv.cfg").exists():
        return False
    return state is None or folder.resolve() != state.resolve()


def _read(root: Path, layout: Layout | None) -> dict[str, bytes]:
    state = None if layout is None else layout.state
    lock = root / CATALOG_LOCK  # what imported views are belongs to the code
    files = [*project_files(root, state), *([lock] if lock.is_file() else [])]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def _digest_of(files: Mapping[str, bytes]) -> str:
    out = hashlib.sha256(b"flyball-code-1")
    for name in sorted(files):
        out.update(f"\n{name}\0{len(files[name])}\0".encode())
        out.update(files[name])
    return out.hexdigest()


def _verify(folder: Path) -> None:
    found = code_digest(folder)
    if found != folder.name:
        raise IntegrityError(
            f"code snapshot {folder.name[:12]} was changed after it was written (now {found[:12]}); restore its files"
        )


def _where(error: BaseException, folder: Path, module_file: str) -> str:
    """Return the innermost place in the user's own files, such as "helpers.py line 3"."""
    inside = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(folder.resolve())]
    return f"{Path(inside[-1].filename).name} line {inside[-1].lineno}" if inside else module_file
