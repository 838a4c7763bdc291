"""Object storage: verified, atomic reads and writes by URI.

A URI is `s3://bucket/key` or a local path; there is no other scheme. Credentials, endpoint and region come from the
environment, as boto3 reads them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_REGION`. They
are not parameters because parameters end up in compiled YAML, cache keys and logs.

Every write is atomic: a reader sees the whole object or none. Every read whose checksum is known is checked, and bytes
that were damaged in transit are fetched again. Failed requests are repeated: which, is in
:mod:`landseg.storage.s3.requests`, and for how long, in :mod:`landseg.storage.retry`.

Other rooms import these names, :mod:`landseg.storage.records` and :mod:`landseg.storage.array_records`, nothing else.
"""

from landseg.storage.connection import endpoint_has_answered, expect_answers
from landseg.storage.documents import Loaded, listed, publish_manifest, read_document, write_document
from landseg.storage.folders import (
    clean_abandoned,
    clean_abandoned_daily,
    delete,
    delete_many,
    each_object,
    links,
    list_objects,
    sizes_below,
    stat,
)
from landseg.storage.object_info import ObjectInfo
from landseg.storage.parallel import parallel
from landseg.storage.reading import check, file_sha256, get_bytes, get_file, get_spans
from landseg.storage.room import RoomNeeded, check_room, is_in_memory, scratch_room
from landseg.storage.uris import folder, is_below, is_s3, join, parent
from landseg.storage.writing import create, put_bytes, put_file, put_if_absent, put_many, put_once, try_writing

__all__ = [
    "Loaded",
    "ObjectInfo",
    "RoomNeeded",
    "check",
    "check_room",
    "clean_abandoned",
    "clean_abandoned_daily",
    "create",
    "delete",
    "delete_many",
    "each_object",
    "endpoint_has_answered",
    "expect_answers",
    "file_sha256",
    "folder",
    "get_bytes",
    "get_file",
    "get_spans",
    "is_below",
    "is_in_memory",
    "is_s3",
    "join",
    "links",
    "list_objects",
    "listed",
    "parallel",
    "parent",
    "publish_manifest",
    "put_bytes",
    "put_file",
    "put_if_absent",
    "put_many",
    "put_once",
    "read_document",
    "scratch_room",
    "sizes_below",
    "stat",
    "try_writing",
    "write_document",
]
