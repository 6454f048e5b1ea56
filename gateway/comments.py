"""Comments of .proto files, by the full name of what they are about. Pure.

They travel in `source_code_info`, which a `FileDescriptorSet` has when it was made with `--include_source_info`;
reflection has none. Paths: google/protobuf/descriptor.proto, SourceCodeInfo.Location.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto

_KINDS: Final[Mapping[str, Mapping[int, tuple[str, str]]]] = {
    "file": {4: ("message_type", "message"), 5: ("enum_type", "enum"), 6: ("service", "service")},
    "message": {2: ("field", "field"), 3: ("nested_type", "message"), 4: ("enum_type", "enum")},
    "enum": {2: ("value", "value")},
    "service": {2: ("method", "method")},
}
"""By the kind of what holds it: field number in its descriptor -> name of that field, kind of the element."""

_INTERNAL: Final = re.compile(r"\(--.*?--\)", re.DOTALL)
"""Notes that are for the authors only (AIP-192)."""


def comments(files: Iterable[FileDescriptorProto]) -> Mapping[str, str]:
    """Comment by full name, as in `shop.v1.Order.state`; a value of an enum stands below its enum."""
    return {name: text for file in files for name, text in _of_file(file)}


def summary(comment: str) -> tuple[str, str]:
    """The first paragraph on one line, and the rest."""
    first, _, rest = comment.partition("\n\n")
    return " ".join(first.split()), rest


def _of_file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        text = location.leading_comments or location.trailing_comments
        name = _name(file, location.path) if text else ""
        if name:
            yield name, _clean(text)


def _name(file: FileDescriptorProto, path: Sequence[int]) -> str:
    """Full name of the element at a path; empty for what has none, such as an import."""
    names, node, kind = [file.package], file, "file"
    for number, index in zip(path[::2], path[1::2], strict=False):
        step = _KINDS.get(kind, {}).get(number)
        elements: Any = getattr(node, step[0]) if step else ()
        if step is None or index >= len(elements):
            return ""
        node, kind = elements[index], step[1]
        names.append(node.name)
    return ".".join(filter(None, names)) if len(path) % 2 == 0 and path else ""


def _clean(text: str) -> str:
    lines = (line.removeprefix(" ").rstrip() for line in _INTERNAL.sub("", text).splitlines())
    return "\n".join(lines).strip()
