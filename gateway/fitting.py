"""How the files of one more service fit beside those that are there. Pure.

Names of files are each team's own business, and many are called `service.proto`. Names of messages and services are
not, as calls and reflection go by them. So a file whose name is taken gets another, a definition that is there already
is left out and imported from where it is, and only two definitions of one name that differ are no fit.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto

_KINDS: Final = {4: "message_type", 5: "enum_type", 6: "service", 7: "extension"}
"""What a file defines: the number of the field in google.protobuf.FileDescriptorProto, as paths of comments have it."""


class Misfit(Exception):
    """A definition differs from one of the same name; the text is its full name and where the other is."""


@dataclass(frozen=True)
class Files:
    """Files that fit together, by name, and where each definition is."""

    by_name: dict[str, FileDescriptorProto] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    """Name of the file by full name of each message, enum, service and extension that it defines."""

    contents: dict[str, bytes] = field(default_factory=dict)
    """What each of these is, for comparison."""

    def add(self, file: FileDescriptorProto) -> None:
        """Take in a file that fits."""
        self.by_name[file.name] = file
        for name, content in _definitions(file):
            self.homes[name], self.contents[name] = file.name, content


def fit(files: Iterable[FileDescriptorProto], held: Files, folder: str) -> Iterator[FileDescriptorProto | Misfit]:
    """What of the files is not there yet, each as it fits and in the given order, dependencies first.

    Names that are taken get `folder` before them. A misfit stands in place of its file.
    """
    files, renamed = tuple(files), dict[str, str]()
    taken = {*held.by_name, *(file.name for file in files)}
    for given in files:
        file = FileDescriptorProto()
        file.CopyFrom(given)
        _import_by(renamed, file)
        known = held.by_name.get(file.name)
        if known is not None and content(known) == content(file):
            continue
        if known is not None:
            renamed[file.name] = file.name = _free(file.name, taken, folder)
        yield _differing(file, held) or _without_twins(file, held)


def content(file: FileDescriptorProto) -> bytes:
    """Content for comparison. As messages, a file that was parsed before its options' extensions were loaded differs
    from the same file parsed after that: there they are unknown fields.
    """
    return without_source(file).SerializeToString(deterministic=True)


def without_source(file: FileDescriptorProto) -> FileDescriptorProto:
    """A copy without comments and positions."""
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    copy.ClearField("source_code_info")
    return copy


def _free(name: str, taken: Container[str], folder: str) -> str:
    while name in taken:
        name = f"{folder}/{name}"
    return name


def _import_by(renamed: Mapping[str, str], file: FileDescriptorProto) -> None:
    for index, name in enumerate(file.dependency):
        file.dependency[index] = renamed.get(name, name)


def _differing(file: FileDescriptorProto, held: Files) -> Misfit | None:
    for name, content in _definitions(file):
        if held.contents.get(name, content) != content:
            return Misfit(name, held.homes[name])
    return None


def _without_twins(file: FileDescriptorProto, held: Files) -> FileDescriptorProto:
    """Leave out what is defined elsewhere, and hand those files on to whoever imports this one."""
    moved: dict[int, dict[int, int]] = {}
    for number, kind in _KINDS.items():
        elements = getattr(file, kind)
        stay = [i for i, element in enumerate(elements) if _full_name(file, element) not in held.homes]
        for index in reversed(range(len(elements))):
            if index not in stay:
                _import_publicly(file, held.homes[_full_name(file, elements[index])])
                del elements[index]
        moved[number] = {old: new for new, old in enumerate(stay)}
    _move_comments(file, moved)
    return file


def _import_publicly(file: FileDescriptorProto, name: str) -> None:
    if name not in file.dependency:
        file.dependency.append(name)
    index = list(file.dependency).index(name)
    if index not in file.public_dependency:
        file.public_dependency.append(index)


def _move_comments(file: FileDescriptorProto, moved: Mapping[int, Mapping[int, int]]) -> None:
    """Let comments be about what they were about: they name it by its place."""
    locations = file.source_code_info.location
    for place in reversed(range(len(locations))):
        path = locations[place].path
        if len(path) > 1 and path[0] in moved:
            if path[1] in moved[path[0]]:
                path[1] = moved[path[0]][path[1]]
            else:
                del locations[place]


def _definitions(file: FileDescriptorProto) -> Iterator[tuple[str, bytes]]:
    """Full name and content of everything that it defines; the same text means another thing in another syntax."""
    language = f"{file.syntax or 'proto2'} {file.edition} ".encode() + file.options.features.SerializeToString()
    for kind in _KINDS.values():
        for element in getattr(file, kind):
            yield _full_name(file, element), language + element.SerializeToString(deterministic=True)


def _full_name(file: FileDescriptorProto, element: Any) -> str:
    return f"{file.package}.{element.name}".lstrip(".")
