"""The user's functions by name and digest: what a definition remembers, and how another process finds it again.

A digest covers the function's source text, its defaults and closure, and everything of the project that it reaches
through its globals and its own imports: functions, classes, constants, sibling modules. Of packages it covers name and
version. The surprise: nothing is pickled. A process that meets an unknown reference imports the project's definitions
from the code snapshot in which it was declared, whose digest is checked; importing declares the function again.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from flyball.errors import DefinitionError, IntegrityError
from flyball.features.spec import CodeRef, FeatureSpec, ServiceColumn, SourceSpec, ViewSpec

__all__ = ["bring", "find_with", "known", "known_name", "refs_of", "remember"]

_SNAPSHOT = "flyball_code_"
_LIVE = "flyball_code_live_"
_lock = threading.RLock()
_known: dict[CodeRef, Callable[..., Any]] = {}
_finders: dict[str, Callable[[CodeRef], bool]] = {}


def remember(function: Callable[..., Any]) -> CodeRef:
    """Make a callable known under its name and digest.

    Raises:
        DefinitionError: it is not callable.
    """
    if not callable(function):
        raise DefinitionError(f"{function!r:.60} is not callable; give a function over arrays, or a callable object")
    digest = hashlib.sha256(b"flyball-callable-1")
    _Digest(digest).add(function)
    ref = CodeRef(known_name(function), digest.hexdigest()[:32])
    with _lock:
        if ref not in _known or not _home(function).startswith(
            _LIVE
        ):  # a snapshot's own never gives way to what may change
            _known[ref] = function
    return ref


def known(ref: CodeRef) -> Callable[..., Any]:
    """Return the callable of a reference, importing its code snapshot when it is not known yet.

    Raises:
        IntegrityError: no snapshot of this project declares it.
    """
    found = _known.get(ref)
    if found is not None:
        return found
    bring(ref)
    found = _known.get(ref)
    if found is None:
        raise IntegrityError(
            f"function {ref.name} with digest {ref.digest[:12]} is not declared by any code of this project; "
            "run flyball apply, or restore the code snapshot it was declared in"
        )
    return found


def bring(ref: CodeRef) -> None:
    """Import whatever declares a reference, where a finder of this process knows it."""
    with _lock:
        for find in reversed(list(_finders.values())):
            if ref in _known or find(ref):
                return


def find_with(place: str, finder: Callable[[CodeRef], bool] | None) -> None:
    """Say how this process finds references of a project it does not know yet: by importing what declares them.

    Args:
        place: The project's state folder; one finder each.
        finder: Imports the declaring code, or returns False when this project has none. None forgets the place.
    """
    with _lock:
        _finders.pop(place, None)
        if finder is not None:
            _finders[place] = finder


def refs_of(specs: Iterable[ViewSpec | SourceSpec | FeatureSpec | ServiceColumn]) -> list[CodeRef]:
    """Return the references within specs of views, sources, features and service columns, once each, in order."""
    found: dict[CodeRef, None] = {}
    for spec in specs:
        for ref in _refs(spec):
            found.setdefault(ref)
    return list(found)


def known_name(function: Any) -> str:
    """Return "module:qualified name", the same in the project's folder and in its snapshots."""
    target = _target(function)
    named = getattr(target, "__qualname__", type(target).__qualname__)
    return f"{_module_of(_home(function))}:{named}"


def _refs(spec: Any) -> Iterator[CodeRef]:
    match spec:
        case ViewSpec():
            yield from _refs(spec.source)
            coded: list[Any] = [*(f.transform for f in spec.features), *spec.about.checks]
        case SourceSpec():
            coded = [*(step for _, step in spec.derive), *spec.checks, *spec.about.checks]
        case _:
            coded = [spec.transform]
    for thing in coded:
        ref = getattr(thing, "code", None)
        if isinstance(ref, CodeRef):
            yield ref


def _target(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function.__func__ if isinstance(function, MethodType) else function


def _home(function: Any) -> str:
    target = _target(function)
    if isinstance(target, FunctionType | BuiltinFunctionType | type):
        return str(target.__module__)
    return type(target).__module__


def _module_of(name: str) -> str:
    """Return a module's name without the package that stands for a snapshot."""
    return name.partition(".")[2] if name.startswith(_SNAPSHOT) else name


# ------------------------------------------------------------------------------------------------ digests


class _Digest:
    """Write everything that a function is made of into a hash, each thing once."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        self._seen: dict[int, int] = {}
        self._keep: list[Any] = []  # an id is only good while its object lives

    def _write(self, *parts: object) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self._digest.update(b"%d:" % len(data))
            self._digest.update(data)

    def add(self, thing: Any) -> None:
        """Add any object."""
        if thing is None or isinstance(thing, bool | int | float | complex | str | bytes):
            self._write(type(thing).__name__, repr(thing))
            return
        if id(thing) in self._seen:
            self._write("seen", self._seen[id(thing)])
            return
        self._seen[id(thing)] = len(self._seen)
        self._keep.append(thing)
        self._object(thing)

    def _object(self, thing: Any) -> None:
        match thing:
            case FunctionType():
                self._function(thing)
            case MethodType():
                self._write("method")
                self.add(thing.__func__)
                self.add(thing.__self__)
            case functools.partial():
                self._write("partial")
                for part in (thing.func, thing.args, thing.keywords):
                    self.add(part)
            case ModuleType():
                self._module(thing)
            case type():
                self._class(thing)
            case Mapping():
                self._write("mapping", len(thing))
                for key in sorted(thing, key=repr):
                    self.add(key)
                    self.add(thing[key])
            case list() | tuple():
                self._write(type(thing).__name__, len(thing))
                for part in thing:
                    self.add(part)
            case set() | frozenset():
                self._write("set", *sorted(map(repr, thing)))
            case _:
                self._instance(thing)

    def _function(self, function: FunctionType) -> None:
        if not _is_own(function.__module__):
            self._write("foreign", _package(function.__module__), function.__qualname__)
            return
        self._write("function", function.__name__, _source(function))
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:
                self._write("empty cell")
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.add(wrapped)
        self._reached(function.__code__, function.__globals__)

    def _reached(self, code: CodeType, names: Mapping[str, Any]) -> None:
        """Add the globals a code object loads, attributes of the project's modules, and what it imports itself."""
        for inner in _codes(code):
            for name in sorted(set(inner.co_names) & names.keys()):
                found = names[name]
                self._write("global", name)
                if isinstance(found, ModuleType) and _is_own(found.__name__):
                    for attribute in sorted(set(inner.co_names) & vars(found).keys()):
                        self._write("attribute", attribute)
                        self.add(vars(found)[attribute])
                else:
                    self.add(found)
            for step in dis.get_instructions(inner):
                if step.opname == "IMPORT_NAME":
                    self._imported(str(step.argval), str(names.get("__name__", "")))

    def _imported(self, name: str, importer: str) -> None:
        path = _sibling(name, importer)
        if path is not None:
            self._write("file", name, path.read_bytes())
        else:
            self._write("import", _package(name))

    def _module(self, module: ModuleType) -> None:
        if _is_own(module.__name__) and module.__file__:
            self._write("module", _module_of(module.__name__), Path(module.__file__).read_bytes())
        else:
            self._write("package", _package(module.__name__))

    def _class(self, thing: type) -> None:
        if not _is_own(thing.__module__):
            self._write("foreign", _package(thing.__module__), thing.__qualname__)
            return
        self._write("class", thing.__name__, _source(thing))
        for base in thing.__bases__:
            self.add(base)
        for name, part in sorted(vars(thing).items()):
            inner = getattr(part, "__func__", part)
            if isinstance(inner, FunctionType):
                self._write("member", name)
                self._reached(inner.__code__, inner.__globals__)

    def _instance(self, thing: Any) -> None:
        """Add an object: its class, and its state where the class is the project's own or the state is plain."""
        import numpy as np

        if isinstance(thing, np.ndarray) and thing.dtype.kind != "O":
            self._write("array", thing.dtype.str, thing.shape, np.ascontiguousarray(thing).tobytes())
            return
        self._write("instance")
        self.add(type(thing))
        own = _is_own(type(thing).__module__)
        for name, value in sorted(getattr(thing, "__dict__", {}).items()):
            if own or isinstance(value, bool | int | float | str | bytes | None):
                self._write("state", name)
                self.add(value)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _source(thing: Any) -> str:
    """Return source text; of what was typed at a prompt, its instructions."""
    try:
        if getattr(thing, "__name__", "") == "<lambda>":
            return _lambda_source(thing)
        return textwrap.dedent(inspect.getsource(thing)).strip()
    except (OSError, TypeError, SyntaxError):
        code = getattr(thing, "__code__", None)
        return repr([(c.co_code, c.co_names, [k for k in c.co_consts if not isinstance(k, CodeType)])
                     for c in _codes(code)]) if code else repr(getattr(thing, "__qualname__", thing))  # fmt: skip


def _lambda_source(function: FunctionType) -> str:
    """Return the text of one lambda, not of the whole statement: that may hold several."""
    lines, _ = inspect.findsource(function)
    text = "".join(lines)
    skipped = {"RESUME", "COPY_FREE_VARS", "MAKE_CELL", "RETURN_GENERATOR"}
    steps = [i.positions for i in dis.get_instructions(function) if i.opname not in skipped and i.positions]
    places = [(p.lineno, p.col_offset) for p in steps if p.lineno is not None and p.col_offset is not None]
    around = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Lambda)
        and all((node.lineno, node.col_offset) <= p < (node.end_lineno, node.end_col_offset) for p in places)
    ]
    if not places or not around:
        raise OSError("no lambda there")
    inner = max(around, key=lambda node: (node.lineno, node.col_offset))
    return ast.get_source_segment(text, inner) or ""


@functools.lru_cache(maxsize=1024)
def _is_own(module: str) -> bool:
    """Whether a module is the project's: from a snapshot or its folder, or not installed as part of a package."""
    if module.startswith(_SNAPSHOT) or module == "__main__":
        return True
    root = module.partition(".")[0]
    if root == "flyball" or root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return False
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None)
    if file is None:
        return False
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")}
    return not any(Path(file).is_relative_to(folder) for folder in installed if folder)


@functools.lru_cache(maxsize=1024)
def _package(module: str) -> str:
    """Return "name version" of what a module belongs to; the standard library goes by its name alone."""
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return root
    from importlib import metadata  # 15 ms that most processes never need

    names = [root] if _version(root) else metadata.packages_distributions().get(root, [root])
    return ", ".join(f"{name} {_version(name)}" for name in sorted(set(names)))


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _sibling(name: str, importer: str) -> Path | None:
    """Return the project's own file that an import inside a function names."""
    package = importer.partition(".")[0]
    base = sys.modules.get(package) if package.startswith(_SNAPSHOT) else None
    for folder in map(Path, getattr(base, "__path__", ())):
        stem = folder.joinpath(*name.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path
    return None
