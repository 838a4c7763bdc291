"""Object storage: verified, atomic reads and writes by URI.

A URI is `s3://bucket/key` or a local path; there is no other scheme. Credentials, endpoint and region come from the
environment, as boto3 reads them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_REGION`. They
are not parameters because parameters end up in compiled YAML, cache keys and logs.

Every write is atomic: a reader sees the whole object or none. Every read whose checksum is known is checked, and bytes
that were damaged in transit are fetched again. Failed requests are repeated: which, is in
:mod:`landseg.storage.s3.requests`, and for how long, in :mod:`landseg.storage.retry`.

Other rooms import these names and :mod:`landseg.storage.records`, nothing else.
"""

from landseg.storage.connection import endpoint_has_answered, expect_answers
from landseg.storage.documents import Loaded, listed, publish_manifest, read_document, write_document
from landseg.storage.object_info import ObjectInfo
from landseg.storage.objects import (
    check,
    clean_abandoned,
    create,
    delete,
    delete_many,
    file_sha256,
    get_bytes,
    get_file,
    links,
    list_objects,
    put_bytes,
    put_file,
    put_if_absent,
    put_many,
    put_once,
    stat,
)
from landseg.storage.parallel import parallel
from landseg.storage.room import scratch_room
from landseg.storage.uris import folder, is_below, is_s3, join, parent

__all__ = [
    "Loaded",
    "ObjectInfo",
    "check",
    "clean_abandoned",
    "create",
    "delete",
    "delete_many",
    "endpoint_has_answered",
    "expect_answers",
    "file_sha256",
    "folder",
    "get_bytes",
    "get_file",
    "is_below",
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
    "stat",
    "write_document",
]
