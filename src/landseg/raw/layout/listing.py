"""A raw dataset as a listing of its files shows it, before any tile is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from landseg.contracts.errors import DataError, printable
from landseg.contracts.yaml_documents import MAX_YAML_BYTES
from landseg.raw.config.dataset_yaml import FILE_NAME, DatasetConfig, parse_config
from landseg.raw.findings import Finding
from landseg.raw.labels.shared_files import belonging_files
from landseg.raw.layout.folders.names import Clarity, read_folder_name
from landseg.raw.layout.folders.strays import counted
from landseg.raw.layout.pairing import Pairing, pair
from landseg.raw.layout.suffixes import RASTER_SUFFIXES, split_suffix
from landseg.raw.sources.file_start import wrong_content
from landseg.raw.sources.source import Source, fingerprint_of
from landseg.raw.sources.source_file import SourceFile, chosen, paths_of, visible

_FILE_NAMES = (FILE_NAME, "dataset.yml")
_SIMILAR = ("data.yaml", "data.yml", "dataset.json", "dataset.yaml.txt", "dataset.yml.txt", "dataset.txt", "dataset")
_FIELDS = "docs/contracts.md shows what it holds"
_MAX_DEPTH = 3
_SHOWN = 3


@dataclass(frozen=True)
class RawDataset:
    """A source, its description and its tiles.

    Attributes:
        source: where the files are.
        fingerprint: see :func:`landseg.raw.sources.source.fingerprint_of`.
        config: `dataset.yaml`.
        config_path: where that is in the source.
        pairing: the tiles by split, and what there is to say about the files.
    """

    source: Source
    fingerprint: str | None
    config: DatasetConfig
    config_path: str
    pairing: Pairing

    @classmethod
    def open(cls, source: Source) -> RawDataset:
        """List a source. Where a folder inside it is the dataset, that is the source.

        Raises:
            DataError: there is no dataset, or its `dataset.yaml` is wrong.
            ContractError: `dataset.yaml` is not YAML.
            StorageError: object storage cannot be reached or refuses.
        """
        files = source.files()
        fingerprint = fingerprint_of(files)
        files = visible(files)
        file = _find_config(source, files)
        folder, _, name = file.path.rpartition("/")
        findings = []
        if folder:
            findings = _about_folder(folder, files)
            source = source.inside(folder)
            files = visible(source.files())
            file = next(file for file in files if file.path == name)
        config = parse_config(_read_config(source, file), source.where(name))
        others = {file.path} | belonging_files(source, config)
        pairing = pair(source, chosen(files, lambda path: path not in others), config)
        pairing.findings[:0] = findings
        return cls(source, fingerprint, config, name, pairing)


def _find_config(source: Source, files: Sequence[SourceFile]) -> SourceFile:
    """The dataset's description: at the top, or else in the one folder that has one."""
    found: dict[str, list[SourceFile]] = defaultdict(list)
    for number, path in enumerate(paths_of(files)):
        folder, _, name = path.rpartition("/")
        if name.lower() in _FILE_NAMES and path.count("/") <= _MAX_DEPTH:
            found[folder].append(files[number])
    folder = ""
    if "" not in found:
        if not found:
            raise _no_config(source, files)
        if len(found) > 1:
            shown = ", ".join(printable(path) for path in sorted(found)[:_SHOWN]) + (", ..." if len(found) > 3 else "")
            raise DataError(source.uri, f"expected one dataset, found {len(found)}: {shown}", "give the folder of one")
        folder = next(iter(found))
        if any(_is_part_of_a_dataset(name) for name in folder.split("/")):
            where = source.where(printable(found[folder][0].path))
            raise DataError(where, "expected the file next to the folders of the splits, found it in one", "move it up")
    if len(found[folder]) > 1:
        names = " and ".join(file.path.rpartition("/")[2] for file in found[folder])
        raise DataError(
            source.where(folder) if folder else source.uri, f"expected one {FILE_NAME}, found {names}", "keep one"
        )
    return found[folder][0]


def _is_part_of_a_dataset(name: str) -> bool:
    said = read_folder_name(name)
    return any(item.clarity <= Clarity.COMPOUND for item in (*said.splits, *said.roles))


def _no_config(source: Source, files: Sequence[SourceFile]) -> DataError:
    similar = [file.path for file in files if file.path.lower() in _SIMILAR]
    lines = "write one of three lines, `version: 1`, `name: my-data` and `classes: [first, second]` with your classes"
    action = f"rename {similar[0]} to {FILE_NAME}" if similar else lines
    return DataError(source.uri, f"has no {FILE_NAME}", f"{action}; {_FIELDS}")


def _about_folder(folder: str, files: Sequence[SourceFile]) -> list[Finding]:
    """That a folder was entered, and what lies outside of it."""
    findings = [Finding.note(f"the dataset is the folder {printable(folder)}, which holds {FILE_NAME}")]
    outside = [f for f in files if not f.path.startswith(f"{folder}/") and split_suffix(f.path)[1] in RASTER_SUFFIXES]
    if outside:
        sentence = (
            f"{counted(outside)} outside of {printable(folder)} not used, the first is {printable(outside[0].path)}"
        )
        findings.append(Finding("", sentence, severity="warning"))
    return findings


def _read_config(source: Source, file: SourceFile) -> bytes:
    where = source.where(file.path)
    if file.size_bytes > MAX_YAML_BYTES:
        problem = f"expected at most {MAX_YAML_BYTES >> 20} MiB, found {file.size_bytes >> 20} MiB"
        raise DataError(where, problem, _FIELDS)
    data = source.read(file)
    if error := wrong_content(data, where, "YAML"):
        raise error if data else DataError(where, error.problem, _FIELDS)
    return data
