"""Which path below a directory a key stands for, and which keys stand for none. Pure; no file system is asked.

A key is opaque to the store; only here is it cut at `/`. A name (a key without the directory's prefix) stands for the
path of its parts, and only if that path is inside the directory and leads back to the same name: no part is empty, `.`
or `..`, none holds a NUL, and neither a part nor the whole is longer than the file system allows. Everything else is
refused rather than repaired, since two keys could be repaired into one path. Names are UTF-8, and nothing is normalised
(neither case nor Unicode form), so two keys that a case-insensitive file system takes for one file overwrite each
other there; such file systems are not supported.
"""

from __future__ import annotations

from dataclasses import dataclass

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import MAX_KEY_BYTES, ObjectKey

Parts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PathLimits:
    """What the file system takes: bytes in one name, and bytes in a path relative to the directory."""

    name_max: int = 255
    path_max: int = 4095


def local_parts(name: str, limits: PathLimits) -> Parts:
    """Cut `name` into the parts of its path; raises InvalidArgument giving the reason why it has none."""
    if not name:
        raise InvalidArgument("the key ends where the directory begins, so no file name is left")
    if "\0" in name:
        raise InvalidArgument("a NUL cannot be in a file name")
    encoded = name.encode()
    parts = tuple(encoded.split(b"/"))
    for part in parts:
        if not part:
            raise InvalidArgument("it has an empty part, which no path can hold")
        if part in (b".", b".."):
            raise InvalidArgument(f"its part {part.decode()!r} is not a file name")
        if len(part) > limits.name_max:
            raise InvalidArgument(f"a part is {len(part)} bytes long; a file name has at most {limits.name_max}")
    if len(encoded) > limits.path_max:
        raise InvalidArgument(f"it is {len(encoded)} bytes long; {limits.path_max} are left for a path here")
    return parts


def path_meant(name: str) -> str:
    """The path that a careless reader would take `name` for, "" if that is outside; for leaving things alone only."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and not parts:
            return ""
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def order(name: str) -> bytes:
    """What names are sorted by: their bytes. Local names that are not UTF-8 (surrogate escapes) have their own."""
    return name.encode(errors="surrogateescape")


def ancestors(name: str) -> list[str]:
    """The names above `name`: for `a/b/c` the list `a`, `a/b`."""
    return [name[:position] for position, char in enumerate(name) if char == "/" and position]


@dataclass(frozen=True, slots=True)
class RemoteTree:
    """The keys of `bucket` below `prefix`, seen as a directory.

    `prefix` is empty or ends with `/`, so that `site` and `site/` are the same tree and `sitemap` is not in it.
    """

    bucket: str
    prefix: str

    @classmethod
    def at(cls, bucket: str, prefix: str) -> RemoteTree:
        """The tree at `prefix`, to which one `/` is added unless it ends with one or is empty."""
        return cls(bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/")

    def __str__(self) -> str:
        return f"{self.bucket}/{self.prefix}"

    def key(self, name: str) -> ObjectKey:
        """The key of `name`; raises InvalidArgument if no key can have that name: too long, or not UTF-8."""
        try:
            size = len((self.prefix + name).encode())
        except UnicodeEncodeError:
            raise InvalidArgument("its name is not UTF-8, as keys are") from None
        if size > MAX_KEY_BYTES:
            raise InvalidArgument(f"its key would be {size} bytes long; the limit is {MAX_KEY_BYTES}")
        return ObjectKey(self.bucket, self.prefix + name)

    def name(self, key: ObjectKey) -> str:
        """The name below this tree of a key in it."""
        return key.key[len(self.prefix) :]
