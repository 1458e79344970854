"""The page: viser's controls, and its scene as `cli.viewer.contents` describes it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import viser
from jaxtyping import UInt8
from PIL import Image

from cli.viewer.cameras import UP, View, camera_view, overview, side_view
from cli.viewer.catalogue import Entry
from cli.viewer.contents import ARRANGEMENTS, IN_A_ROW, Composer, Selection, ShownPhoto
from cli.viewer.exports import EXPORTS, export
from cli.viewer.scene import PanelScene
from cli.viewer.text import about_hypothesis, about_photo, score_legend
from common.failures import sentence_of
from hmr.body.model import Body
from hmr.types import Box

__all__ = ["Page"]

PICTURE_SIDE = 1600  # pixels; larger photographs are reduced
CAMERA, OVERVIEW, SIDE = "Camera", "Overview", "Side"
SAME_ASPECT, SAME_PLACE_M = 1e-3, 1e-3


@dataclass(frozen=True)
class _Look:
    """Where a browser was made to look from, in a window of an aspect ratio."""

    place: str
    aspect: float
    view: View


class Page:
    """Shows one photograph at a time, at first that of the first entry. All browsers that are connected share the
    controls."""

    def __init__(
        self, server: viser.ViserServer, entries: Sequence[Entry], first: ShownPhoto, body: Body
    ) -> None:
        self._server, self._body, self._lock = server, body, threading.Lock()
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        server.scene.set_up_direction("-y")
        server.scene.configure_default_lights(cast_shadow=False)
        if len(entries) > 1:
            names = [entry.name for entry in entries]
            chooser = server.gui.add_dropdown("Photograph", names, initial_value=names[0])
            chooser.on_update(lambda _: self.show(entries[names.index(chooser.value)]))
        self.view = PhotoView(server, entries[0].name, first, body)
        server.on_client_connect(self._connect)

    def _connect(self, client: viser.ClientHandle) -> None:
        self.view.look(client)
        client.camera.on_update(lambda _: self.view.refit(client))

    def show(self, entry: Entry) -> None:
        """Show another photograph, or why it cannot be shown."""
        with self._lock:
            try:
                shown = entry.load()
            except (ValueError, OSError) as error:
                for client in self._server.get_clients().values():
                    client.add_notification(entry.name, sentence_of(error), color="red")
                return
            self.view.remove()
            self.view = PhotoView(self._server, entry.name, shown, self._body)
            for client in self._server.get_clients().values():
                self.view.look(client)


class PhotoView:
    """The controls and the scene of one photograph.

    A change of a control draws the whole selection; changes that arrive meanwhile are drawn together.
    """

    def __init__(self, server: viser.ViserServer, name: str, shown: ShownPhoto, body: Body) -> None:
        self._server, self._shown, self._body = server, shown, body
        self._composer, self._lock = Composer(shown, body), threading.Lock()
        self._drawn = first = Selection.first(shown)
        self._looks: dict[int, _Look] = {}  # the last of each client
        image, faces = shown.photo.image, body.faces.numpy()
        self._scene = PanelScene(
            server.scene, lambda region: _part_of(image, region), faces, len(shown.labels)
        )
        self._scene.draw(self._composer.panels(first))
        self._about = server.gui.add_html(about_photo(name, shown))
        self._folders = [
            self._add_body_controls(first),
            self._add_switches(first),
            self._add_views(),
            self._add_exports(),
        ]
        self._person.on_update(lambda _: self._change_person())
        for control in (self._hypothesis, self._step, *self._switches):
            control.on_update(lambda _: self.draw())
        self._arrangement.on_update(lambda _: self._rearrange())

    # -- controls --------------------------------------------------------------------------------------------

    def _add_body_controls(self, first: Selection) -> viser.GuiFolderHandle:
        gui, people, steps = self._server.gui, self._shown.people, self._shown.num_steps
        with (folder := gui.add_folder("Body")):
            numbers = [str(number) for number in range(len(people))]
            self._person = gui.add_dropdown("Person", numbers, visible=len(people) > 1)
            last = people[first.person].group_size - 1
            self._hypothesis = gui.add_slider(
                "Hypothesis", 0, max(last, 1), 1, first.hypothesis, disabled=last < 1
            )
            self._step = gui.add_slider("Denoising step", 1, max(steps, 2), 1, first.step, visible=steps > 1)
            self._arrangement = gui.add_dropdown("Group", ARRANGEMENTS, initial_value=first.arrangement)
            self._comment = gui.add_html(about_hypothesis(people[first.person], first.hypothesis))
            gui.add_html(score_legend(), visible=any(one.scores for one in people))
        return folder

    def _add_switches(self, first: Selection) -> viser.GuiFolderHandle:
        gui = self._server.gui
        with (folder := gui.add_folder("Show")):
            self._switches = (
                gui.add_checkbox("Photograph", first.photograph),
                gui.add_checkbox("Skeleton", first.skeleton),
                gui.add_checkbox("Observed points", first.points),
            )
        return folder

    def _add_views(self) -> viser.GuiFolderHandle:
        with (folder := self._server.gui.add_folder("View")):
            views = self._server.gui.add_button_group("From", (CAMERA, SIDE, OVERVIEW))

            @views.on_click
            def _(event: viser.GuiEvent) -> None:
                if event.client is not None:
                    self.look(event.client, views.value)

        return folder

    def _add_exports(self) -> viser.GuiFolderHandle:
        gui, labels = self._server.gui, self._shown.labels
        with (folder := gui.add_folder("Export")):
            source = gui.add_dropdown("Bodies of", labels, visible=len(labels) > 1)
            kind = gui.add_dropdown("Format", EXPORTS, initial_value="glb")
            button = gui.add_button("Download", icon=viser.Icon.DOWNLOAD)

            @button.on_click
            def _(event: viser.GuiEvent) -> None:
                number = labels.index(source.value)
                name, content = export(kind.value, self._shown, self.selection(), number, self._body)
                if event.client is not None:
                    event.client.send_file_download(name, content, save_immediately=True)

        return folder

    def remove(self) -> None:
        for part in (self._about, *self._folders, self._scene):
            part.remove()

    # -- what is shown ---------------------------------------------------------------------------------------

    def selection(self) -> Selection:
        photograph, skeleton, points = (switch.value for switch in self._switches)
        person = int(self._person.value)
        last = self._shown.people[person].group_size - 1
        return Selection(
            person, min(self._hypothesis.value, last), self._step.value, self._arrangement.value, photograph,
            skeleton, points,
        )  # fmt: skip

    def _change_person(self) -> None:
        """Show the best hypothesis of another person."""
        person = self._shown.people[int(self._person.value)]
        self._hypothesis.max = max(person.group_size - 1, 1)
        self._hypothesis.value = person.best
        self._rearrange()

    def _rearrange(self) -> None:
        """Draw, and show all of it to browsers whose view the mouse has not moved."""
        self.draw()
        for client in self._server.get_clients().values():
            if self._is_unmoved(client):
                self.look(client)

    def draw(self) -> None:
        with self._lock:
            selection = self.selection()
            if selection == self._drawn:
                return
            panels = self._composer.panels(selection)
            with self._server.atomic():
                self._scene.draw(panels)
                person = self._shown.people[selection.person]
                self._comment.content = about_hypothesis(person, selection.hypothesis)
            self._drawn = selection

    # -- where browsers look from ----------------------------------------------------------------------------

    def look(self, client: viser.ClientHandle, place: str | None = None) -> None:
        """Move a browser's view. `place` None: to the camera, or to where all of a row is seen."""
        selection, aspect = self.selection(), client.camera.aspect
        place = place or (OVERVIEW if selection.arrangement == IN_A_ROW else CAMERA)
        view = self._view_from(place, selection, aspect)
        self._looks[client.client_id] = _Look(place, aspect, view)
        with client.atomic():
            client.camera.up_direction = UP
            client.camera.position = view.position_m
            client.camera.look_at = view.look_at_m
            client.camera.fov = view.fov

    def refit(self, client: viser.ClientHandle) -> None:
        """Adapt a view to a window of another shape, unless the mouse has moved it. The first shape that a browser
        reports is that without the panel beside it."""
        look = self._looks.get(client.client_id)
        is_reshaped = look is not None and abs(client.camera.aspect - look.aspect) > SAME_ASPECT
        if look is not None and is_reshaped and self._is_unmoved(client):
            self.look(client, look.place)

    def _is_unmoved(self, client: viser.ClientHandle) -> bool:
        look = self._looks.get(client.client_id)
        return look is not None and np.allclose(
            client.camera.position, look.view.position_m, atol=SAME_PLACE_M
        )

    def _view_from(self, place: str, selection: Selection, aspect: float) -> View:
        panels, pelvis_m = self._composer.panels(selection), self._composer.pelvis_m(selection)
        if place == CAMERA:
            return camera_view(panels, pelvis_m, aspect)
        return side_view(panels[0], pelvis_m) if place == SIDE else overview(panels, aspect)


def _part_of(image: UInt8[np.ndarray, "height width 3"], region: Box) -> UInt8[np.ndarray, "rows columns 3"]:
    """A region of whole pixels, reduced to PICTURE_SIDE."""
    rows, columns = slice(int(region.y0), int(region.y1)), slice(int(region.x0), int(region.x1))
    picture = Image.fromarray(np.ascontiguousarray(image[rows, columns]))
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return np.asarray(picture)
