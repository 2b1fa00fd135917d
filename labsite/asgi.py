"""Three doors: WebSockets to Channels, agents to the lane, all else to Django in the pool."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labsite.settings")
django.setup()

from labsite.pool import Pool  # noqa: E402

pool = Pool()


async def application(scope, receive, send):
    if scope["type"] == "http":
        await pool(scope, receive, send)
