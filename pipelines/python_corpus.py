"""The documentation strings of the running Python's standard library: a script for a process of its own.

It imports the whole library, and reads it as it was installed: other packages patch it when they are imported (torch
replaces `inspect.getfile`). So it depends on nothing but the standard library itself.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import inspect
import io
import json
import pkgutil
import re
import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from typing import TextIO

MAX_WORDS = 60
MAX_PARAMETERS = 8
MAX_DEFAULT = 12

# Importing these opens windows, prints, changes the terminal or patches other modules.
_SIDE_EFFECTS = {"antigravity", "distutils", "idlelib", "lib2to3", "readline", "rlcompleter", "site", "this"}
_GRAPHICAL = {"tkinter", "turtle", "turtledemo"}
# The same functions as os and os.path under the name of one platform.
_PLATFORM_TWINS = {"genericpath", "nt", "ntpath", "nturl2path", "posix", "posixpath"}
_INTERNAL = {"ensurepip", "pydoc_data", "pyexpat", "sre_compile", "sre_constants", "sre_parse", "test"}
# Gone by Python 3.13: without them the collection stays nearly the same from one version to the next.
_REMOVED = {
    *("aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "imp", "mailcap"),
    *("msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd", "sunau", "telnetlib", "uu"),
    "xdrlib",
}
_SKIPPED = _SIDE_EFFECTS | _GRAPHICAL | _PLATFORM_TWINS | _INTERNAL | _REMOVED
# One codec per submodule, each with the same boilerplate.
_WITHOUT_SUBMODULES = {"encodings"}

_DESCRIPTORS = (property, types.GetSetDescriptorType, types.MemberDescriptorType)
# "getattr(object, name[, default]) -> value": what C functions without a signature put first. A longer text after the
# arrow ("-> v, remove specified key and return ...") is the description itself.
_CALL_LINE = re.compile(r"(async )?[\w.]+\(.*\)(\s*--?>\s*[\w\[\], ]{1,30}\.?)?$")
_HEADING = re.compile(r"\n[=~*-]{3,}$")
# Written by namedtuple and enum, not by a person.
_GENERATED = re.compile(r"(Alias for field number \d+|An enumeration\.|A collection of name/value pairs\.)$")


def write_names_and_texts(stream: TextIO) -> None:
    """Write every public name with its text as one JSON object, `{name: text}`.

    A text is the signature and the first paragraph of a documentation string, together at most `MAX_WORDS` words.
    Modules that this platform lacks, that act when imported, or that Python has removed since 3.11 are left out.
    """
    texts: dict[str, str] = {}
    for name, documented, in_class in _walk():
        text = _document_text(name, documented, in_class)
        if text:
            # A package's own name comes before the submodule it hides: unittest.main is the class.
            texts.setdefault(name, text)
    json.dump(texts, stream)


def _walk() -> Iterator[tuple[str, object, bool]]:
    """Yield every public module, class, function, method and property: its dotted name, itself, if it is in a class."""
    for module_name, module in _modules():
        yield module_name, module, False
        prefix = "" if module_name == "builtins" else f"{module_name}."
        for name, member in _module_members(module_name, module):
            yield prefix + name, member, False
            if isinstance(member, type):
                for attribute, value in _class_members(member):
                    yield f"{prefix}{name}.{attribute}", value, True


def _modules() -> Iterator[tuple[str, types.ModuleType]]:
    pending = sorted(name for name in sys.stdlib_module_names if _is_public(name) and name not in _SKIPPED)
    pending.append("os.path")
    while pending:
        name = pending.pop()
        module = _import_quietly(name)
        if module is None:
            continue
        yield name, module
        if hasattr(module, "__path__") and name not in _WITHOUT_SUBMODULES:
            children = sorted(child.name for child in pkgutil.iter_modules(module.__path__))
            pending.extend(f"{name}.{child}" for child in children if _is_public(child) and child not in _SKIPPED)


def _import_quietly(name: str) -> types.ModuleType | None:
    muted = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(muted), contextlib.redirect_stderr(muted):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            # Made for another platform, or not compiled into this interpreter.
            return None


def _module_members(module_name: str, module: types.ModuleType) -> Iterator[tuple[str, object]]:
    exported: Iterable[str] | None = getattr(module, "__all__", None)
    for name in sorted(set(vars(module) if exported is None else exported)):
        # Some packages import what they export at the first access.
        member = getattr(module, name, None) if _is_public(name) else None
        if member is None or isinstance(member, types.ModuleType):
            continue
        # Without __all__ only what the module, or its C half, defines is its own.
        if exported is not None or getattr(member, "__module__", None) in (module_name, f"_{module_name}"):
            yield name, member


def _class_members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield what the class defines, and what it has from private bases, which have no public name of their own."""
    seen: set[str] = set()
    for base in cls.__mro__[:-1]:
        if base is not cls and all(map(_is_public, (base.__name__, *base.__module__.split(".")))):
            continue
        for name in sorted(vars(base)):
            if _is_public(name) and name not in seen:
                seen.add(name)
                yield name, inspect.getattr_static(base, name)


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _document_text(name: str, documented: object, in_class: bool) -> str:
    """Return the signature and first paragraph, or an empty string where nobody wrote a documentation string."""
    callee = documented.__func__ if isinstance(documented, (staticmethod, classmethod)) else documented
    call_lines, paragraph = _first_paragraph(_own_docstring(callee))
    short_name = name.rpartition(".")[2]
    if paragraph in ("", short_name) or _GENERATED.match(paragraph):
        return ""
    drops_first = in_class and not isinstance(documented, staticmethod)
    signature = _signature(short_name, callee, drops_first) or " or ".join(call_lines)
    words = (f"{signature}: {paragraph}" if signature else paragraph).split()
    return " ".join(words[:MAX_WORDS])


def _own_docstring(callee: object) -> str:
    """Return the docstring written for this object; an instance's is its class's unless it has its own."""
    docstring = getattr(callee, "__doc__", None)
    if not isinstance(docstring, str):
        return ""
    written_here = isinstance(callee, (types.ModuleType, type, *_DESCRIPTORS)) or inspect.isroutine(callee)
    if not written_here and docstring == type(callee).__doc__:
        return ""
    return inspect.cleandoc(docstring)


def _first_paragraph(docstring: str) -> tuple[list[str], str]:
    """Split off the call lines at the top and return them with the first paragraph of prose after them."""
    lines = docstring.strip().splitlines()
    call_lines = []
    while lines and (not lines[0].strip() or _CALL_LINE.match(lines[0].strip())):
        line = lines.pop(0).strip()
        if line:
            call_lines.append(line)
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        if paragraph.strip() and not _HEADING.search(paragraph):
            return call_lines, " ".join(paragraph.split())
    # "date(year, month, day) --> date object" may be all there is; without an arrow a dataclass wrote it.
    return [], " or ".join(line for line in call_lines if "->" in line)


def _signature(short_name: str, callee: object, drops_first: bool) -> str:
    """Write the call, without `self`, or an empty string for what is not called or does not say how."""
    if isinstance(callee, enum.EnumType) or not (isinstance(callee, type) or inspect.isroutine(callee)):
        return ""
    try:
        parameters = list(inspect.signature(callee).parameters.values())
    except (AttributeError, TypeError, ValueError):
        # C functions may carry no signature, or one whose defaults inspect fails to look up (curses, select).
        return ""
    if drops_first and parameters and parameters[0].name in ("self", "cls", "type"):
        parameters = parameters[1:]
    shown = [_parameter(parameter) for parameter in parameters[:MAX_PARAMETERS]]
    if len(parameters) > MAX_PARAMETERS:
        shown.append("...")
    return f"{short_name}({', '.join(shown)})"


def _parameter(parameter: inspect.Parameter) -> str:
    """Write a parameter without its annotation, and without a default that differs from machine to machine."""
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={_default(parameter.default)}"


def _default(value: object) -> str:
    # A repr may hold a memory address, a long string a path of this machine, a huge number the machine's word size.
    plain = value is None or type(value) in (bool, int, float, str)
    written = repr(value)
    return written if plain and len(written) <= MAX_DEFAULT else "..."


if __name__ == "__main__":
    write_names_and_texts(sys.stdout)
