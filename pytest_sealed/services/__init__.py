"""Ready-made services: each a function that returns a `ContainerSpec`, and a typed handle.

A new one is a function like these, in anybody's package: see `pytest_sealed.make_spec`.
"""

from __future__ import annotations

from pytest_sealed.services.nginx import Nginx, nginx
from pytest_sealed.services.postgres import Postgres, postgres
from pytest_sealed.services.redis import Redis, redis

__all__ = ["Nginx", "Postgres", "Redis", "nginx", "postgres", "redis"]
