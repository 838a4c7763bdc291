"""An S3-compatible endpoint as object storage: the same functions as :mod:`landseg.storage.local`.

Every upload carries its Content-MD5, which an endpoint must check before it accepts the bytes. Which answers are asked
for again is decided in :mod:`landseg.storage.s3.requests`.
"""

from landseg.storage.s3.downloads import checksum, etag_confirms, get_bytes, get_file
from landseg.storage.s3.folders import clean_abandoned, delete, delete_many, links, list_objects, stat
from landseg.storage.s3.uploads import create, put_bytes, put_file

__all__ = [
    "checksum",
    "clean_abandoned",
    "create",
    "delete",
    "delete_many",
    "etag_confirms",
    "get_bytes",
    "get_file",
    "links",
    "list_objects",
    "put_bytes",
    "put_file",
    "stat",
]
