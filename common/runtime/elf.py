"""ELF files of CUDA's libraries: list a library's dependencies, write an alias of a library.

The layouts are those of 64-bit little-endian files (System V ABI, chapters 4 and 5). pyelftools
reads them too, but its import takes longer than that of numpy, at every start of a script, and it
cannot write.
"""

import contextlib
import struct
from typing import List

_HEADER = "<16sHHIQQQIHHHHHH"
# type, flags, offset in the file, address, -, size in the file, size in memory, -
_SEGMENT = "<IIQQQQQQ"
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551
_IDENTITY = b"\x7fELF\x02\x01\x01"
# Entries of the dynamic segment
_NEEDED, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 1, 5, 6, 10, 11, 14


def needed(path: str) -> List[str]:
    """The libraries that the file is linked against; none if it is damaged or not a library."""
    with open(path, "rb") as file, contextlib.suppress(struct.error, ValueError):
        header = file.read(struct.calcsize(_HEADER))
        if not header.startswith(_IDENTITY):
            return []
        *_, start, _, _, _, size, count, _, _, _ = struct.unpack(_HEADER, header)
        file.seek(start)
        segments = list(struct.iter_unpack(_SEGMENT, file.read(size * count)))

        def read(address: int, length: int) -> bytes:
            for kind, _, offset, first, _, stored, *_ in segments:
                if kind == _LOAD and first <= address < first + stored:
                    file.seek(offset + address - first)
                    return file.read(length)
            return b""

        entries = []
        for kind, _, _, address, _, stored, *_ in segments:
            if kind == _DYNAMIC:
                entries = list(struct.iter_unpack("<QQ", read(address, stored)))
        places = dict(entries)
        strings = read(places.get(_STRTAB, 0), places.get(_STRSZ, 0))
        names = [at for tag, at in entries if tag == _NEEDED]
        return [strings[at : strings.index(b"\0", at)].decode() for at in names]
    return []


def alias(name: str, library: str) -> bytes:
    """An empty shared library called ``name`` that is linked against ``library``.

    Once it is loaded, whoever opens ``name`` finds the symbols of ``library``.
    """
    strings = b"\0".join([b"", library.encode(), name.encode(), b""])
    begin = struct.calcsize(_HEADER) + 3 * struct.calcsize(_SEGMENT)
    entries = {_NEEDED: 1, _SONAME: 2 + len(library), _STRSZ: len(strings), _SYMENT: 24}
    at = begin + 16 * (len(entries) + 3)
    entries.update({_STRTAB: at, _SYMTAB: at, 0: 0})  # it has no symbol to be read
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries.items())
    end = at + len(strings)
    read, write = 4, 2
    segments = [
        (_LOAD, read | write, 0, 0, 0, end, end, 4096),
        (_DYNAMIC, read | write, begin, begin, begin, len(dynamic), len(dynamic), 8),
        (_STACK, read | write, 0, 0, 0, 0, 0, 16),  # without it the loader makes stacks executable
    ]
    shared, x86_64, size = 3, 62, struct.calcsize(_SEGMENT)
    fields = (_IDENTITY, shared, x86_64, 1, 0, 64, 0, 0, 64, size, len(segments), 0, 0, 0)
    header = struct.pack(_HEADER, *fields)
    return header + b"".join(struct.pack(_SEGMENT, *s) for s in segments) + dynamic + strings
