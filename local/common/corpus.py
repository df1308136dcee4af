"""What the programs of published corpora share: where a corpus is, whether its layout is whole, how it is fetched."""

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

TRIES = 5
TIMEOUT_S = 60


def check_there(corpus: str, folder: Path, wanted: Iterable[str], advice: str) -> None:
    """Raise a UserError that names the first of `wanted`, paths seen from `folder`, that is missing."""
    for name in ("", *wanted):
        if not (folder / name).exists():
            raise UserError(f"{corpus} in '{folder}' lacks '{folder / name}': {advice}.")


def remember(out: Path, **folders: Path) -> None:
    """Record in `out` where the parts of a corpus are."""
    write_json(out / "corpus.json", {name: str(folder.resolve()) for name, folder in folders.items()})


def remembered(out: Path, name: str, program: str) -> Path:
    """What `remember` recorded as `name`."""
    advice = f"run stage 0 first ({program} obtain --out {out}), with --overwrite if it ran before"
    folder = read_json(out / "corpus.json", advice).get(name)
    if not isinstance(folder, str):
        raise UserError(f"{out / 'corpus.json'} does not say where the corpus is: {advice}.")
    return Path(folder)


def fetch(url: str, folder: Path, md5: str | None = None) -> Path:
    """The file behind `url` in `folder`; what an interrupted download left, in `<file>.part`, is completed.

    Raises UserError when it cannot be had, or is not the one with that `md5` (it is removed then).
    """
    path = folder / url.rsplit("/", 1)[-1]
    partial = path.with_name(f"{path.name}.part")
    advice = f"run it again to go on, or put the file there yourself: {path}"
    folder.mkdir(parents=True, exist_ok=True)
    for tries_left in reversed(range(TRIES if not path.exists() else 0)):
        try:
            _download(url, partial)
            partial.replace(path)
            break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
            if not tries_left or isinstance(error, urllib.error.HTTPError | ValueError):  # ValueError: it is no address
                raise UserError(f"{url} could not be fetched ({error}): {advice}.") from error
    if md5 is not None:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            path.unlink()
            raise UserError(f"{path} had MD5 {found}, not {md5}, and was removed: {advice}.")
    return path


def _download(url: str, partial: Path) -> None:
    """Append to `partial` what it lacks of `url`. ConnectionError when the connection ends before the file does.

    Lhotse's resumable_download takes a broken connection for the file's end, and appends the whole file to its first
    part where a server does not know ranges.
    """
    held = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={held}-"} if held else {})
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # there is no more of it
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
    """Unpack `member`, a file or folder in a tar archive, as `target`, and remove the archive; all of it or nothing."""
    partial = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")  # refuses members that lead out of the folder
        (partial / member).replace(target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, FileNotFoundError) as error:
        archive.unlink()
        raise UserError(f"{archive} is damaged ({error}) and was removed: run it again to fetch it anew.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    archive.unlink()
    return target
