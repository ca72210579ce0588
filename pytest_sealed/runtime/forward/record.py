"""The spool file's format, shared by its writer and its reader.

A log is one endless sequence of records; a position in it is a number of bytes since its beginning. It lies
in two segment files, the newer at `path`, the older at `path.1`. A segment is a header that tells the
position of its first record, then records: each a header that tells its own position (so that a
reader can see whether a number that it was given is the beginning of a record), then data.
"""

from __future__ import annotations

import struct

__all__ = ["LOSS", "MAGIC", "RECORD", "SEGMENT", "SEGMENT_MAGIC", "STREAMS"]

SEGMENT = struct.Struct("<8sQ")           # magic, position of the first record
SEGMENT_MAGIC = b"sealog1\n"
RECORD = struct.Struct("<BBHLQQ")         # magic, stream, 0, bytes of data, nanoseconds since the epoch, own position
MAGIC = 0xA5
LOSS = b"\n[sealed: %d bytes of log lost: no space left for the spool]\n"
STREAMS = ("stdout", "stderr")            # indexed by the record's stream
