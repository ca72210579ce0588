"""`sealed build`: images from recipes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pytest_sealed.cli.bar import Lines, progress_for
from pytest_sealed.errors import SealedError, SpecError
from pytest_sealed.images.build import Builder
from pytest_sealed.images.finder import find_recipe, recipe_names
from pytest_sealed.images.store import Store

if TYPE_CHECKING:
    from pytest_sealed.images.recipe import Recipe

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `build` to the commands."""
    parser = subparsers.add_parser("build", help="build images from recipes", description=(
        "Build images from recipes: those below fixture-images of this folder and of the folders above it, and those that come with "
        "this package. What is up to date stays as it is. Only this command uses the network; a test run never does."))
    parser.add_argument("recipes", nargs="*", metavar="NAME|PATH", help="a recipe's name, or the path of its image.toml or folder")
    parser.add_argument("--all", action="store_true", help="build every recipe there is")
    parser.add_argument("--fresh", action="store_true", help="take nothing from earlier builds (newer packages, for example)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Build what is asked for, one after the other; go on after a failure, and return 1 then."""
    if not args.recipes and not args.all:
        there = ", ".join(recipe_names()) or "none"
        raise SpecError("which recipe?", remedy=f"sealed build NAME (there are {there}), or sealed build --all")
    recipes = [find_recipe(name) for name in dict.fromkeys([*args.recipes, *(recipe_names() if args.all else ())])]
    progress = progress_for(sys.stderr, quiet=args.quiet)
    builder = Builder(Store(), progress, fresh=args.fresh)
    failed = [recipe.name for recipe in recipes if not _build(builder, recipe, progress)]
    if failed and len(recipes) > 1:
        print(f"sealed: {len(failed)} of {len(recipes)} images were not built: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _build(builder: Builder, recipe: Recipe, progress: Lines) -> bool:
    try:
        builder.build(recipe)
    except SealedError as error:
        progress.clear()
        print(f"sealed: {recipe.name}: {error}", file=sys.stderr)
        return False
    return True
