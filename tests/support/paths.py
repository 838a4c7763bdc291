"""A source of paths alone, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile


@dataclass(frozen=True)
class Paths(Source):
    """Files by path; those without content hold one byte."""

    contents: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Iterable[str] | str, contents: Mapping[str, bytes] | None = None) -> Paths:
        """A source at `/raw`; paths may be given as one text."""
        names = paths.split() if isinstance(paths, str) else paths
        return cls("/raw", dict.fromkeys(names, b"x") | dict(contents or {}))

    def files(self) -> list[SourceFile]:
        return [SourceFile(path, len(data)) for path, data in sorted(self.contents.items())]

    def folders(self) -> set[str]:
        return {path.split("/")[0] for path in self.contents if "/" in path}

    def inside(self, folder: str) -> Paths:
        raise NotImplementedError

    def read(self, file: SourceFile) -> bytes:
        return self.contents[file.path]
