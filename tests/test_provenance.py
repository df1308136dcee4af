"""Where a result comes from: the commit, and whether the code differs from it."""

from __future__ import annotations

import subprocess

from residualformer import provenance


def git(folder, *arguments) -> str:
    name = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_and_what_makes_it_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "code.py"))
    assert provenance.commit() == "unknown"  # no checkout
    results = tmp_path / "egs" / "mini" / "exp" / "RESULTS.md"
    results.parent.mkdir(parents=True)
    (tmp_path / "code.py").write_text("old\n")
    (tmp_path / ".gitignore").write_text("egs/*/exp/\n")  # as this repository's
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    head = git(tmp_path, "rev-parse", "HEAD")[:10]
    assert provenance.commit() == head
    results.write_text("new\n")  # by stage 8
    (tmp_path / "not_tracked").write_text("new\n")
    assert provenance.commit() == head
    (tmp_path / "code.py").write_text("new\n")
    assert provenance.commit() == f"{head}-dirty"
