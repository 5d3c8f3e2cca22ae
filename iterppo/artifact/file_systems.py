"""URLs, and the file systems of pyarrow that open them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from iterppo.errors import UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def is_url(location: str) -> bool:
    """Whether it is no path (s3://, gs://, file://)."""
    return "://" in location


def file_system(url: str) -> tuple[FileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises:
        UsageError: If none opens it.
    """
    from pyarrow.fs import FileSystem

    try:
        system, path = FileSystem.from_uri(url)
    except (ValueError, OSError) as error:
        raise UsageError(
            f"{shown(url)}: no file system opens it ({first_line(error)}). Name "
            "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or an absolute path; check the network and the "
            "credentials."
        ) from None
    return system, path


def url_of(path: str, *, like: str) -> str:
    """The URL of a path in the file system of another URL, with that one's credentials and options.

    >>> url_of("bucket/a b", like="s3://key:secret@bucket/*?region=eu-west-1")
    's3://key:secret@bucket/a%20b?region=eu-west-1'
    """
    scheme, _, rest = like.partition("://")
    before, question, options = rest.partition("?")
    credentials, at, _ = before.partition("/")[0].rpartition("@")
    return f"{scheme}://{credentials}{at}{quote(path)}{question}{options}"


def shown(location: str) -> str:
    """A path or URL as it may be written down: without credentials and options.

    >>> shown("s3://key:secret@bucket/a%20b?region=eu-west-1"), shown("logs/a?b")
    ('s3://bucket/a b', 'logs/a?b')
    """
    scheme, mark, rest = location.partition("://")
    if not mark:
        return location
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{unquote(path)}"


def first_line(error: Exception) -> str:
    """What is told of a library's error."""
    return str(error).partition("\n")[0]
