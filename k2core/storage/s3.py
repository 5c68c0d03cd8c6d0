"""Folders in a bucket, through boto3: multipart, verified, and what is there already is not sent again.

Endpoint, region and credentials are boto3's own settings (`AWS_ENDPOINT_URL`, profiles, instance roles).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k2core.storage.atomic import publish
from k2core.storage.parquet import StorageError

PART = 64 * 2**20
"""Bytes from which a file is uploaded in parts; also the bytes of a part."""
ATTEMPTS = 5
"""Attempts per request, with growing pauses."""
_PLAIN = re.compile(r"\w[\w.@+-]*")
"""Names that are written, so the only ones that are read: anybody may put `../x` into a bucket."""
DIGEST = "sha256"
"""Metadata of an object that holds the digest of its content."""


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TornError(StorageError):
    """An object is not what was once sent."""


class Bucket:
    """`s3://bucket/prefix`.

    Raises:
        StorageError: the address is not one.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme, _, rest = self.url.partition("://")
        self.name, _, self.prefix = rest.partition("/")
        if scheme != "s3" or not self.name:
            raise StorageError(f"{url}: not an address like s3://bucket/prefix")

    def folders(self, holding: str) -> list[str]:
        """Names of the folders directly below that hold a file `holding`, in order."""
        with self._errors():
            keys = list(self._keys(self._client(), ""))
        parts = [key[len(self._key("")) :].split("/") for key in keys]
        return sorted(part[0] for part in parts if len(part) == 2 and part[1] == holding and _PLAIN.fullmatch(part[0]))

    def upload(self, folder: Path, last: str) -> None:
        """Copy the files of `folder` to a folder of its name, `last` after all others: once it is there, all are.

        The folder is left alone if it has `last` already, which must thus differ wherever another file does. Otherwise
        what is not of `folder` is deleted first, `last` before all others.

        Raises:
            StorageError: the bucket is not there or cannot be reached, or an object is not what was sent.
        """
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)
        files = sorted(folder.iterdir(), key=lambda file: (file.name == last, file.name))
        mark = self._key(f"{folder.name}/{last}")
        with self._errors():
            client = self._client()
            if self._stored(client, mark) == (_size(folder / last), sha256(folder / last)):
                return
            client.delete_object(Bucket=self.name, Key=mark)
            expected = {self._key(f"{folder.name}/{file.name}") for file in files}
            for key in set(self._keys(client, f"{folder.name}/")) - expected:
                client.delete_object(Bucket=self.name, Key=key)
            for file in files:
                key, digest = self._key(f"{folder.name}/{file.name}"), sha256(file)
                if self._stored(client, key) == (_size(file), digest):
                    continue
                extra = {"Metadata": {DIGEST: digest}, "ChecksumAlgorithm": "SHA256"}
                client.upload_file(str(file), self.name, key, ExtraArgs=extra, Config=config)
                if self._stored(client, key) != (_size(file), digest):
                    raise StorageError(
                        f"{self.url}/{folder.name}/{file.name} is not what was sent; who else writes there?"
                    )

    def download(self, name: str, target: Path) -> None:
        """Copy the folder `name` to `target`, which appears when it is whole.

        Raises:
            TornError: an object is not what was once sent.
            StorageError: the bucket cannot be reached.
        """
        with self._errors():
            client = self._client()
            with publish(target) as scratch:
                scratch.mkdir()
                for key in self._keys(client, f"{name}/"):
                    file = scratch / key.rpartition("/")[2]
                    if key != self._key(f"{name}/{file.name}") or not _PLAIN.fullmatch(file.name):
                        continue
                    client.download_file(self.name, key, str(file))
                    if self._stored(client, key) != (_size(file), sha256(file)):
                        raise TornError(f"s3://{self.name}/{key} is torn; remove that folder")

    def remove(self, name: str) -> None:
        """Delete the folder `name`."""
        with self._errors():
            client = self._client()
            for key in self._keys(client, f"{name}/"):
                client.delete_object(Bucket=self.name, Key=key)

    def _keys(self, client: Any, below: str) -> Iterator[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self._key(below))
        return (item["Key"] for page in pages for item in page.get("Contents", []))

    def _key(self, rest: str) -> str:
        return f"{self.prefix}/{rest}" if self.prefix else rest

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        retries = {"max_attempts": ATTEMPTS, "mode": "standard"}
        return boto3.session.Session().client("s3", config=Config(retries=retries, connect_timeout=10, read_timeout=60))

    def _stored(self, client: Any, key: str) -> tuple[int, str] | None:
        """Size and digest of an object, None if there is none."""
        from botocore.exceptions import ClientError

        try:
            head = client.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return None
            raise
        return head["ContentLength"], head["Metadata"].get(DIGEST, "")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """boto3's errors as one sentence."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error, ValueError) as error:  # ValueError: the endpoint is not a URL
            raise StorageError(f"{self.url}: {' '.join(str(error).split())}") from None


def _size(file: Path) -> int:
    return file.stat().st_size
