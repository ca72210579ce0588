"""Where recipes are: the project's own below `fixture-images`, then those that this package ships."""

from __future__ import annotations

import os

from pytest_sealed.errors import RecipeError, nearest
from pytest_sealed.images.recipe import FILE, Recipe, load_recipe

__all__ = ["find_recipe", "recipe_folders", "recipe_names"]

FOLDER = "fixture-images"


def recipe_folders(start: str | None = None) -> list[str]:
    """Return the folders that hold recipes, each in a folder of its name; earlier ones win."""
    folder, found = os.path.abspath(start or os.getcwd()), []
    while True:
        found.append(os.path.join(folder, FOLDER))
        if folder == os.path.dirname(folder):
            break
        folder = os.path.dirname(folder)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found += [os.path.join(package, "_recipes"), os.path.join(os.path.dirname(package), FOLDER)]
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]


def recipe_names(start: str | None = None) -> list[str]:
    """Return the names of all recipes that `find_recipe` finds by name, sorted."""
    names = {name for folder in recipe_folders(start) for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name, FILE))}
    return sorted(names)


def find_recipe(name: str, start: str | None = None) -> Recipe:
    """Return the recipe called `name`, or the one at the path `name` if it holds a `/` or ends in `.toml`.

    Raises:
        RecipeError: there is none (names the nearest), or it is wrong.
    """
    if "/" in name or name.endswith(".toml"):
        return load_recipe(name)
    for folder in recipe_folders(start):
        path = os.path.join(folder, name.partition(":")[0], FILE)
        if os.path.isfile(path):
            recipe = load_recipe(path)
            if recipe.name.partition(":")[0] != name.partition(":")[0]:
                raise recipe.error(("name",), f"name = {recipe.name!r}, but the recipe lies in the folder {name!r}",
                                   remedy=f'write name = "{name}"')
            return recipe
    names = recipe_names(start)
    raise RecipeError(f"there is no recipe {name!r}{nearest(name, names)}", remedy=(
        f"write {FOLDER}/{name}/{FILE}, or build one of {', '.join(names)}" if names else f"write {FOLDER}/{name}/{FILE}"))
