"""Presigned URLs in the hands of clients that we did not write: botocore's presigner, curl, and nginx in front.

curl and nginx are system packages: without them the tests skip on a developer's machine and fail where CI is set.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from presigned import BUCKET, Site
from wire.client import eventually
from wire.process import Server, short_directory

MIB = 1 << 20
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30) | st.lists(
    st.sampled_from(["..", ".", "", "a", "%2F", "%", "\0", " ", "+", "ü", "\U0001f600", "?", "#", "&=", "~", "*", "'"]),
    min_size=1,
).map("/".join).filter(bool)
ODD_KEYS = [
    "a/../b",
    "../up",
    "a//b",
    "//lead",
    "/lead",
    "a%2Fb",
    "a\0b",
    "ü \U0001f600",
    "a?b#c&d=e+f",
    "a\r\nb",
    "a\\b",
]
LONGEST = "\U0001f600" * 512
"""2,048 bytes, which are 6,144 once they are encoded."""


def program(name: str) -> str:
    """The path of a program; its absence skips the test, but in CI fails it."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")
    if found is None:
        assert not os.environ.get("CI"), f"{name} must be installed in CI"
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module", name="site")
def site_fixture() -> Iterator[Site]:
    with Server() as server:
        yield Site(server)
        server.stop()


# ---- botocore ----


def presigner(site: Site) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=site.base,
        aws_access_key_id=site.keys.access_key_id,
        aws_secret_access_key=site.keys.secret_access_key,
        region_name="eu-central-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def send(site: Site, method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Any:
    parts = urlsplit(url)
    return site.send(method, f"{parts.path}?{parts.query}", headers or {}, body)


@settings(max_examples=60)
@given(
    key=KEYS,
    data=st.binary(max_size=30),
    kind=st.sampled_from(["text/plain", "a/b; c=d"]),
    seconds=st.integers(60, 604_800),
)
@example(key=LONGEST, data=b"x", kind="a/b", seconds=60)
@example(key="a/../../b", data=b"x", kind="a/b", seconds=60)
def test_botocores_urls_and_ours_are_both_accepted(site: Site, key: str, data: bytes, kind: str, seconds: int) -> None:
    boto = presigner(site)

    def theirs(operation: str, **parameters: Any) -> str:
        where = {"Bucket": "boto", "Key": key, **parameters}
        return str(boto.generate_presigned_url(operation, Params=where, ExpiresIn=seconds))

    def ours(method: str, **fields: Any) -> Any:
        return site.presign(key, method, bucket="boto", expires_seconds=seconds, **fields)

    put = theirs("put_object", ContentType=kind, Metadata={"a": "1 2"})
    first = send(site, "PUT", put, {"Content-Type": kind, "x-amz-meta-a": "1 2"}, data)
    assert first.status == 200
    assert send(site, "PUT", put, {"Content-Type": "x/y", "x-amz-meta-a": "1 2"}, data).status == 403
    assert urlsplit(put).path == urlsplit(ours("PUT").url).path
    answer = ours("PUT", content_type=kind)
    assert send(site, "PUT", answer.url, dict(answer.headers), data + b"!").status == 200
    version = first.headers["x-amz-version-id"]
    for url in (theirs("get_object", VersionId=version), ours("GET", version_id=version).url):
        assert send(site, "GET", url).body == data
    for url in (theirs("get_object"), ours("GET").url):
        assert send(site, "GET", url, {"Range": "bytes=0-"}).body == data + b"!"
    renamed = theirs("get_object", ResponseContentDisposition='attachment; filename="a b"', ResponseContentType="x/y")
    got = send(site, "GET", renamed)
    assert (got.headers["Content-Disposition"], got.headers["Content-Type"]) == ('attachment; filename="a b"', "x/y")
    for url in (theirs("head_object"), ours("HEAD").url):
        head = send(site, "HEAD", url)
        assert (head.status, head.headers["Content-Length"], head.headers["Content-Type"]) == (
            200,
            str(len(data) + 1),
            kind,
        )
    for url in (theirs("delete_object", VersionId=version), ours("DELETE").url, theirs("delete_object")):
        assert send(site, "DELETE", url).status == 204
    assert send(site, "GET", theirs("get_object", VersionId=version)).status == 404
    assert send(site, "GET", theirs("get_object")).headers["x-amz-delete-marker"] == "true"


# ---- curl ----


def curl(url: str, *options: str | Path, code: int = 0) -> bytes:
    done = subprocess.run(
        [program("curl"), "--silent", "--show-error", "--path-as-is", "--max-time", "60", *map(str, options), url],
        capture_output=True,
        check=False,
        env={name: text for name, text in os.environ.items() if "proxy" not in name.lower()},
    )
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.mark.parametrize("key", [*ODD_KEYS, LONGEST, "/" * 2048], ids=lambda key: ascii(key[:12]))
def test_curl_with_any_key(site: Site, key: str) -> None:
    curl(site.presign(key, "PUT").url, "--fail", "--request", "PUT", "--data-binary", "content")
    assert site.client.body(key, bucket=BUCKET) == b"content"
    assert curl(site.presign(key).url) == b"content"
    assert b"HTTP/1.1 200 OK" in curl(site.presign(key, "HEAD").url, "--head")
    curl(site.presign(key, "DELETE").url, "--fail", "--request", "DELETE")
    assert b"<Code>NoSuchKey</Code>" in curl(site.presign(key).url)


def test_curl_uploads_and_downloads_a_large_file(site: Site, tmp_path: Path) -> None:
    content = hashlib.shake_128(b"large").digest(5 * MIB)
    (tmp_path / "file").write_bytes(content)
    answer = site.presign("large", "PUT", content_type="image/png")
    headers = [option for name, text in dict(answer.headers).items() for option in ("--header", f"{name}: {text}")]
    curl(answer.url, "--fail", *headers, "--expect100-timeout", "30", "--upload-file", tmp_path / "file")
    curl(answer.url, "--fail", *headers, "--header", "Transfer-Encoding: chunked", "--upload-file", tmp_path / "file")
    url = site.presign("large").url
    curl(url, "--fail", "--output", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert curl(url, "--range", "1000000-1000009") == content[1_000_000:1_000_010]
    (tmp_path / "part").write_bytes(content[:MIB])
    curl(url, "--fail", "--continue-at", "-", "--output", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == content


# ---- nginx ----

NGINX = """
daemon off;
worker_processes 1;
pid {home}/pid;
error_log stderr warn;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    listen 127.0.0.1:{port};
    server_name files.test;
    merge_slashes off;
    large_client_header_buffers 4 32k;
    client_max_body_size 0;
    location / {{
      proxy_pass http://{upstream};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-Proto https;
      proxy_request_buffering off;
      proxy_buffering off;
    }}
  }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Proxied:
    site: Site
    port: int

    def curl(self, url: str, *options: str | Path) -> bytes:
        assert urlsplit(url).netloc == f"files.test:{self.port}"
        return curl(url, "--resolve", f"files.test:{self.port}:127.0.0.1", *options)


@contextmanager
def running_nginx(port: int, upstream: str) -> Iterator[None]:
    home = short_directory()
    (home / "conf").write_text(NGINX.format(home=home, port=port, upstream=upstream))
    process = subprocess.Popen([program("nginx"), "-p", str(home), "-c", str(home / "conf")], stderr=subprocess.PIPE)
    try:

        def answers() -> bool:
            assert process.poll() is None, process.communicate()[1]
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(answers, "nginx answers")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module", name="proxied")
def proxied_fixture() -> Iterator[Proxied]:
    program("nginx"), program("curl")
    port = free_port()
    with Server(f"http.publicUrl=http://files.test:{port}") as server:
        site = Site(server)
        with running_nginx(port, site.authority):
            yield Proxied(site, port)
        server.stop()


@pytest.mark.parametrize(
    "key", [*(key for key in ODD_KEYS if "\0" not in key), LONGEST], ids=lambda key: ascii(key[:9])
)
def test_nginx_passes_keys_on(proxied: Proxied, key: str) -> None:
    site = proxied.site
    proxied.curl(site.presign(key, "PUT").url, "--fail", "--request", "PUT", "--data-binary", "content")
    assert site.client.body(key, bucket=BUCKET) == b"content"
    assert proxied.curl(site.presign(key).url) == b"content"
    assert b"HTTP/1.1 200 OK" in proxied.curl(site.presign(key, "HEAD").url, "--head")
    proxied.curl(site.presign(key, "DELETE").url, "--fail", "--request", "DELETE")
    assert b"<Code>NoSuchKey</Code>" in proxied.curl(site.presign(key).url)


@pytest.mark.parametrize("key", ["../../up", "a\0b"])
def test_what_nginx_does_not_pass_on_never_names_another_object(proxied: Proxied, key: str) -> None:
    """nginx answers these itself, as README.md says: NUL always, and `..` that leads above the root."""
    before = proxied.site.changes()
    answer = proxied.curl(
        proxied.site.presign(key, "PUT").url, "--request", "PUT", "--data-binary", "content", "--include"
    )
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert proxied.site.changes() == before


def test_large_bodies_through_nginx(proxied: Proxied, tmp_path: Path) -> None:
    site, content = proxied.site, hashlib.shake_128(b"nginx").digest(5 * MIB)
    (tmp_path / "file").write_bytes(content)
    for framing in ("Content-Length: 5242880", "Transfer-Encoding: chunked"):
        url = site.presign(framing, "PUT").url
        proxied.curl(url, "--fail", "--header", framing, "--upload-file", tmp_path / "file")
        assert proxied.curl(site.presign(framing).url) == content
        assert proxied.curl(site.presign(framing).url, "--range", "-10") == content[-10:]


def test_the_host_name_in_front_is_signed(proxied: Proxied) -> None:
    site = proxied.site
    site.client.write("host", b"content", bucket=BUCKET)
    url = site.presign("host").url
    assert proxied.curl(url) == b"content"
    altered = proxied.curl(url, "--header", "Host: other.test")
    assert b"<Code>SignatureDoesNotMatch</Code>" in altered
