"""A real S3 endpoint (moto's server) whose answers can be disturbed."""

from __future__ import annotations

import io
import logging
import tarfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import requests
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
from PIL import Image


def png(seed: int, size: int = 12) -> bytes:
    """An image of noise, which does not compress."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_folder(num_train: int = 6, num_test: int = 2, size: int = 12, seed: int = 0):
    """Files of a data set with classes ``cat`` and ``dog``: path -> content."""
    names = [
        f"{split}/{label}/image {i}.png"
        for split, num in (("train", num_train), ("test", num_test))
        for label in ("cat", "dog")
        for i in range(num)
    ]
    return {name: png(1000 * seed + i, size) for i, name in enumerate(names)}


def tar(files: dict[str, bytes], *odd: tarfile.TarInfo) -> bytes:
    """An archive of files, and of members that are none."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in odd:
            archive.addfile(member)
    return out.getvalue()


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder: path -> content."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class DisturbedStore:
    """The endpoint.

    Attributes:
        url: of the endpoint.
        fetched: paths of the objects that were asked for, in order.
        num_listings: how often a bucket was listed.
        disturb: called with the path of an object and its content before it is sent; returns what
            is sent in its place.
        checksums: whether objects come with checksums of their own, beside the ETag.
        conditions: those of writes that are heeded.
        refuse: called with method, path and query of a request; returns status and code of the
            error that it is answered with, or ``None``.
        away: whether every request is answered with 503.
        written: paths of the objects that were written or deleted, in order.
    """

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        assert self._server._server is not None
        self._app = self._server._server.app
        self._server._server.app = self._serve
        self._lock, self._buckets = threading.Lock(), 0
        self.calm()

    def stop(self) -> None:
        self._server.stop()

    def calm(self) -> None:
        """Forget requests and disturbances."""
        self.fetched: list[str] = []
        self.num_listings = 0
        self.disturb: Callable[[str, bytes], bytes] = lambda _path, content: content
        self.conditions = {"If-None-Match", "If-Match"}
        self.checksums, self.away = True, False
        self.refuse: Callable[[str, str, str], tuple[int, str] | None] = lambda *_: None
        self.written: list[str] = []

    def client(self, service: str = "s3") -> Any:
        return boto3.client(service, endpoint_url=self.url, region_name="us-east-1")

    def upload(self, files: dict[str, bytes], prefix: str = "data") -> str:
        """Put objects into a new bucket and return the address of the prefix."""
        self._buckets += 1
        bucket, client = f"bucket-{self._buckets}", self.client()
        client.create_bucket(Bucket=bucket)
        for name, content in files.items():
            client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content)
        return f"s3://{bucket}/{prefix}"

    def put(self, uri: str, name: str, content: bytes) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self.client().put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content)

    def objects(self, uri: str) -> dict[str, bytes]:
        """Everything below an address: path -> content."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        pages = self.client().get_paginator("list_objects_v2")
        keys = [
            item["Key"]
            for page in pages.paginate(Bucket=bucket, Prefix=f"{prefix}/")
            for item in page.get("Contents", ())
        ]
        bodies = (self.client().get_object(Bucket=bucket, Key=key)["Body"] for key in keys)
        return {k[len(prefix) + 1 :]: b.read() for k, b in zip(keys, bodies, strict=True)}

    def make_older(self, uri: str, name: str, seconds: float) -> None:
        """Let an object have been written so many seconds earlier."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        key = s3_backends["123456789012"]["aws"].buckets[bucket].keys[f"{prefix}/{name}"]
        key.last_modified -= timedelta(seconds=seconds)

    def check_credentials(self, check: bool) -> None:
        """Let the endpoint check credentials and permissions, or not."""
        text = "0" if check else "inf"
        requests.post(f"{self.url}/moto-api/reset-auth", data=text, timeout=10).raise_for_status()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "nothing happened for a minute"
            time.sleep(0.01)

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"].encode("latin-1").decode()
        if self.away:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        if (refusal := self.refuse(method, path, query)) is not None:
            body = f"<Error><Code>{refusal[1]}</Code><Message>no</Message></Error>".encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start_response(f"{refusal[0]} Refused", headers)
            return [body]
        for name in {"If-None-Match", "If-Match"} - self.conditions:
            if method == "PUT":
                environ.pop(f"HTTP_{name.upper().replace('-', '_')}", None)
        if method in {"PUT", "DELETE"} and path.count("/") > 1:
            with self._lock:
                self.written.append(path)
        listing = "list-type" in query
        if method != "GET" or listing:
            with self._lock:
                self.num_listings += listing
            return self._app(environ, start_response)
        with self._lock:
            self.fetched.append(path)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if not self.checksums:
                headers = [h for h in headers if not h[0].lower().startswith("x-amz-checksum")]
            return start_response(status, headers, exc_info)

        return [self.disturb(path, b"".join(self._app(environ, start)))]
