"""Helpers for published corpora: check the layout, record the location, download and unpack."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from residualformer.errors import UserError
from residualformer.files import read_json, write_json

OPENSLR = "https://www.openslr.org/resources"
TRIES = 5
TIMEOUT_S = 60


def check_paths(corpus: str, folder: Path, required: Iterable[str], advice: str) -> None:
    """Check that a folder and the paths `required` in it exist.

    Raises:
        UserError: one is missing; the message names the first.
    """
    for name in ("", *required):
        if not (folder / name).exists():
            raise UserError(f"{corpus} in '{folder}' lacks '{folder / name}': {advice}.")


def record_paths(out: Path, **paths: Path) -> None:
    """Record in `out` where the parts of a corpus are."""
    write_json(out / "corpus.json", {name: str(path.resolve()) for name, path in paths.items()})


def recorded_path(out: Path, name: str, program: str) -> Path:
    """Return the path that `record_paths` has recorded as `name`.

    Raises:
        UserError: there is no such record; the message says how `program` writes it.
    """
    advice = f"run stage 0 first ({program} obtain --out {out}), with --overwrite if it ran before"
    path = read_json(out / "corpus.json", advice).get(name)
    if not isinstance(path, str):
        raise UserError(f"{out / 'corpus.json'} does not say where the corpus is: {advice}.")
    return Path(path)


def fetch(url: str, folder: Path, md5: str | None = None) -> Path:
    """Download `url` to `folder` and return the path; resume an interrupted download, `<file>.part`.

    Raises:
        UserError: the download fails, or the file does not have the checksum `md5`; it is then removed.
    """
    path = folder / url.rsplit("/", 1)[-1]
    partial = path.with_name(f"{path.name}.part")
    advice = f"run it again to resume, or put the file there yourself: {path}"
    folder.mkdir(parents=True, exist_ok=True)
    for tries_left in reversed(range(TRIES if not path.exists() else 0)):
        try:
            _download(url, partial)
            partial.replace(path)
            break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
            if not tries_left or isinstance(error, urllib.error.HTTPError | ValueError):  # ValueError: not a URL
                raise UserError(f"{url} could not be downloaded ({error}): {advice}.") from error
    if md5 is not None:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            path.unlink()
            raise UserError(f"{path} had the MD5 checksum {found}, not {md5}, and was removed: {advice}.")
    else:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        print(f"note: no checksum of {url} is known, so it was not checked; the SHA-256 of the file is {found}")
    return path


def _download(url: str, partial: Path) -> None:
    """Append the missing bytes of `url` to `partial`.

    Lhotse's `resumable_download` treats a broken connection as the end of the file, and appends the whole file to its
    first part if the server ignores the Range header.

    Raises:
        ConnectionError: the connection ends before the file does.
    """
    held = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={held}-"} if held else {})
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # `partial` is complete
            return
        raise
    held = held if reply.status == http.HTTPStatus.PARTIAL_CONTENT else 0
    total = held + int(reply.headers["Content-Length"] or 0)
    with reply, open(partial, "ab" if held else "wb") as file:
        with tqdm(total=total, initial=held, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1]) as bar:
            while block := reply.read(1 << 20):
                file.write(block)
                bar.update(len(block))
    if partial.stat().st_size < total:
        raise ConnectionError(f"the connection broke after {partial.stat().st_size} of {total} bytes")


def unpack(archive: Path, member: str, target: Path) -> Path:
    """Unpack `member`, a file or folder of a tar archive, as `target`, all or nothing; remove the archive.

    Raises:
        UserError: the archive is damaged, lacks the member, or has members that lead out of its folder.
    """
    partial = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")  # refuses members that lead out of the folder
        (partial / member).replace(target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError, FileNotFoundError) as error:
        archive.unlink()
        raise UserError(f"{archive} is damaged ({error}) and was removed: run it again to download it.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    archive.unlink()
    return target
