"""The page without a browser: photographs that replace each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cli.viewer.catalogue import Entry
from cli.viewer.contents import Selection, ShownPhoto
from cli.viewer.page import Page
from cli.viewer.server import GuardedServer
from hmr.body.model import Body
from tests.cli.viewer.shown_photo import make_shown


@pytest.fixture
def server() -> Iterator[GuardedServer]:
    server = GuardedServer(0, "test")
    yield server
    server.stop()


def broken() -> ShownPhoto:
    raise ValueError("the file is damaged")


def test_another_photograph_replaces_the_first_unless_it_cannot_be_read(server: GuardedServer, body: Body):
    first, second = make_shown(), make_shown(sources=1, scores=())
    entries = [Entry("first", lambda: first), Entry("second", lambda: second), Entry("broken", broken)]
    page = Page(server, entries, first, body)
    assert page.view.selection() == Selection.first(first)
    page.show(entries[1])
    assert page.view.selection() == Selection.first(second)
    shown = page.view
    page.show(entries[2])
    assert page.view is shown
