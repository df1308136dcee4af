"""Recipes whose steps only leave a trace: a fresh one, and one all of whose stages are done."""

from __future__ import annotations

import shutil

import pytest
from support.fake_recipe import Recipe


@pytest.fixture
def recipe(root, tmp_path):
    return Recipe(root, tmp_path)


@pytest.fixture(scope="module")
def finished_folder(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    recipe = Recipe(root, folder)
    recipe.run_script()
    return recipe


@pytest.fixture
def finished(finished_folder, tmp_path):
    """A recipe all of whose stages are done."""
    shutil.copytree(finished_folder.folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    recipe = Recipe.__new__(Recipe)
    recipe.folder = tmp_path
    return recipe
