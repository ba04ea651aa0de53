"""Objects whose digest has become NULL, and which pass for delete markers.

A version without a digest is a marker, and needs no payload; so an object that has lost its digest would be left out of
backups, and its payload collected, without a word. What tells the two apart is what no marker has.
"""

from __future__ import annotations

from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.wrong_values.wrong_rows import Wrong, named

_OF_ITSELF = {
    "size": ("{row}.size <> 0", "its size is not 0"),
    "content_type": ("{row}.content_type <> ''", "it has a content type"),
    "headers": ("{row}.headers IS NOT NULL", "it has headers"),
    "metadata": ("{row}.metadata IS NOT NULL", "it has metadata"),
}
"""What no delete marker has, as SQL of a row of versions and in words."""
_POINTED_AT = """
    EXISTS (
        SELECT 1 FROM current
        WHERE current.bucket = {row}.bucket AND current.key = {row}.key AND current.seq = {row}.seq
    )
"""
_NO_MARKER = {**_OF_ITSELF, "current": (_POINTED_AT, "`current` names it as its key's object")}
"""The same, with what no row of `current` says of one."""


def no_marker(row: str, *, of_itself: bool = False) -> str:
    """SQL, of a row of versions: what tells that it is no delete marker although it has no digest, or NULL.

    A digest that has become NULL makes a marker of an object, which then seems to need no payload. That of an empty
    object of which none of this is known cannot be told. `of_itself` is for who compares rows with `current` anyway:
    only the row is looked at. `why` says the answer in words.
    """
    tells = _OF_ITSELF if of_itself else _NO_MARKER
    cases = " ".join(f"WHEN {sql.format(row=row)} THEN '{name}'" for name, (sql, _) in tells.items())
    return f"CASE WHEN {row}.digest IS NOT NULL OR {row}.gone_digest IS NOT NULL THEN NULL {cases} END"


def why(by: str) -> str:
    """Why the digest of a row is wrong that `no_marker` has told by this."""
    return f"holds NULL, as only a delete marker's does, but {_NO_MARKER[by][1]}"


def first(connection: Connection) -> Wrong | None:
    """The first row of versions whose digest has become NULL, as far as that can be told; reads all rows at once."""
    found = connection.execute(_LOST_DIGEST).fetchall()
    if not found:
        return None
    *key, by = found[0]
    return Wrong("versions", named("versions", key), "digest", why(by), tuple(key))


_LOST_DIGEST = f"""
    SELECT CAST(bucket AS BLOB), key, seq, {no_marker("versions")} AS lost FROM versions
    WHERE digest IS NULL AND lost IS NOT NULL LIMIT 1
"""
