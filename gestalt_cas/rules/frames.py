"""Data frames by hand: the one hot message of each stream, without a protobuf object per frame.

ReadObjectChunk and WriteObjectRequest both carry their payload as field 2 (bytes) of a oneof, so a data frame is the
tag 0x12, the length as a varint, and the bytes. Reading takes exactly that form with a minimal length that reaches to
the end of the message; everything else (unknown fields, padded varints, repeated fields) is left to protobuf's parser,
so the two always agree. Source: the protobuf encoding guide; contract section 6, "Undecodable request bytes".
"""

from __future__ import annotations

_DATA_TAG = 0x12
FIRST_FRAME_BYTES = 64 * 1024
"""The first data frame of a read carries at most this much, so that a small read is not held up by a whole chunk."""


def pack_data(data: bytes | memoryview) -> bytes:
    """The message that carries `data` as field 2; one copy of the bytes."""
    length = len(data)
    header = bytearray([_DATA_TAG])
    while length > 0x7F:
        header.append(length & 0x7F | 0x80)
        length >>= 7
    header.append(length)
    return b"".join((header, data))


def unpack_data(message: bytes) -> memoryview | None:
    """The bytes of a plain data frame, not copied; None when the message has any other form."""
    if len(message) < 2 or message[0] != _DATA_TAG:
        return None
    length, shift, position = 0, 0, 1
    while True:
        byte = message[position]
        length |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            break
        shift += 7
        if position == len(message) or shift > 28:
            return None
    minimal = byte or position == 2
    if not minimal or length != len(message) - position:
        return None
    return memoryview(message)[position:]
