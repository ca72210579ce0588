"""From a recipe to an image: parse, build in layers, keep in a content-addressed store.

Workers inside the session's user namespace import modules of this package too, so this file imports
nothing until a name is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sealed.images.build import Builder
    from pytest_sealed.images.image import Image, ImageConfig
    from pytest_sealed.images.recipe import Recipe, load_recipe
    from pytest_sealed.images.store import Store

_HOME = {"Builder": "build", "Image": "image", "ImageConfig": "image", "Recipe": "recipe", "Store": "store", "load_recipe": "recipe"}

__all__ = ["Builder", "Image", "ImageConfig", "Recipe", "Store", "load_recipe"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'pytest_sealed.images' has no attribute {name!r}")
    return getattr(import_module(f"pytest_sealed.images.{_HOME[name]}"), name)
