"""The dashboard as a web application: live pages over tables that others load, to be served or mounted beside others.

It reads and shows; the one thing it can do is to hand out an exported network, where it is given the means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from dash import Dash, Input, Output, State, ctx, html, no_update
from flask import Flask, Response, abort, redirect, send_file

from dashboards.frames import Frames
from dashboards.layers import layers_by_trial, quantities
from dashboards.look import CSS
from dashboards.page import index_page, shell, study_page, trial_card, trial_cards, trouble_page
from dashboards.pareto import front_figure, kinds_of
from dashboards.parts import card, failures_table, front_table, graph, header, summary
from dashboards.progress import history_figure, hypervolume_figure
from dashboards.report import report
from dashboards.style import untitled
from dashboards.trials import importance_figure
from spaces.errors import PleachError

HTML = """<!doctype html><html lang="en"><head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}<style>LOOK</style>
</head><body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"""
#: Only this machine's own names: a page elsewhere cannot point a name of its own at a reader's loopback address.
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Source:
    """Where the pages read. All of these are called from the threads of a server and may raise PleachError.

    Args:
        studies: All studies, each with ``study``, ``state`` and ``said``, a line about it.
        load: The tables of one study, cheap to ask for every second.
        export: Writes a trial's network as one file and gives its path; None where nothing is handed out.
        link: The address of a trial's run in MLflow, or of the study's runs; None where there are no links. It is
            asked for when somebody follows the link.
    """

    studies: Callable[[], Sequence[Mapping[str, Any]]]
    load: Callable[[str], Frames]
    export: Callable[[str, int], Path] | None = None
    link: Callable[[str, int | None], str] | None = None


def application(source: Source, *, prefix: str = "/", mounted: bool = False, hosts: Sequence[str] = LOOPBACK) -> Flask:
    """The dashboard as a WSGI application.

    Args:
        source: Where it reads.
        prefix: The path at which readers find it, from and to a slash: ``/``, ``/dashboard/``.
        mounted: Whether another application takes the prefix off the path before it asks this one.
        hosts: The names by which it may be asked for; all others are refused. Empty: any, because whoever mounts it
            looks after that.

    Returns:
        A Flask application, for any WSGI server.
    """
    server = Flask("dashboards")
    server.config["TRUSTED_HOSTS"] = list(hosts) or None
    server.config["MAX_CONTENT_LENGTH"] = 16 * 2**20
    at = "/" if mounted else prefix
    app = Dash(
        "dashboards",
        server=cast(Any, server),  # its annotation leaves Flask out
        routes_pathname_prefix=at,
        requests_pathname_prefix=prefix,
        index_string=HTML.replace("LOOK", CSS),
        include_assets_files=False,
        suppress_callback_exceptions=True,
        title="Pleach",
        update_title="",
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
        add_log_handler=False,
        enable_mcp=False,
    )
    app.layout = shell
    _add_files(server, source, at)
    _add_pages(app, source, prefix)
    _add_overview(app, source, prefix)
    _add_trial(app, source, prefix)
    return server


def _add_files(server: Flask, source: Source, at: str) -> None:
    """What is downloaded: the report, the table of trials, exported networks."""

    def load(name: str) -> Frames:
        try:
            return source.load(name)
        except PleachError as error:
            abort(404, str(error))

    def report_of(name: str) -> Response:
        return _download(report(load(name)), "text/html", f"{name}.html")

    def trials_of(name: str) -> Response:
        return _download(load(name).trials.to_csv(index=False), "text/csv", f"{name}.csv")

    def export_of(name: str, number: int) -> Response:
        if source.export is None:
            abort(404)
        try:
            file = source.export(name, number)
        except PleachError as error:
            abort(409, str(error))
        return send_file(file, as_attachment=True, download_name=f"{name}-{number}{file.suffix}")

    def link_of(name: str, number: int | None = None) -> Response:
        if source.link is None:
            abort(404)
        try:
            return cast(Response, redirect(source.link(name, number)))
        except PleachError as error:
            abort(503, str(error))

    server.add_url_rule(f"{at}-/report/<name>", view_func=report_of, endpoint="report")
    server.add_url_rule(f"{at}-/trials/<name>", view_func=trials_of, endpoint="trials")
    server.add_url_rule(f"{at}-/mlflow/<name>", view_func=link_of, endpoint="runs")
    server.add_url_rule(f"{at}-/mlflow/<name>/<int:number>", view_func=link_of, endpoint="run")
    server.add_url_rule(f"{at}-/export/<name>/<int:number>", view_func=export_of, endpoint="export")


def _add_pages(app: Dash, source: Source, prefix: str) -> None:
    @app.callback(Output("page", "children"), Input("where", "pathname"))
    def page(path: str) -> Any:
        name = unquote((path or prefix).removeprefix(prefix.rstrip("/")).strip("/"))
        try:
            if not name:
                return index_page(source.studies(), prefix)
            return study_page(
                source.load(name), prefix, exports=source.export is not None, linked=source.link is not None
            )
        except PleachError as error:
            return trouble_page(str(error), prefix)

    @app.callback(
        Output("version", "data"), Output("trouble", "children"), Input("clock", "n_intervals"),
        State("study", "data"), State("version", "data"),
    )  # fmt: skip
    def look(_: int, name: str, before: str | None) -> tuple[Any, Any]:
        try:
            version = source.load(name).version()
        except PleachError as error:
            return no_update, str(error)
        return (no_update if version == before else version), ""


def _add_overview(app: Dash, source: Source, prefix: str) -> None:
    """What concerns the whole study: all of it is drawn anew when the study has gone on."""

    @app.callback(
        Output("head", "children"), Output("summary", "children"), Output("progress", "children"),
        Output("failures", "children"), Output("quantity", "options"), Output("members", "children"),
        Input("version", "data"), State("study", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def overview(_: str, name: str) -> tuple[Any, ...]:
        frames = source.load(name)
        figures = [
            hypervolume_figure(frames),
            *(history_figure(frames, objective) for objective in frames.directions),
            importance_figure(frames.importances),
        ]
        cards = [card(graph(figure)) for figure in figures]
        links = _links(frames, prefix, linked=source.link is not None)
        return (
            header(frames, links), summary(frames), cards, failures_table(frames), quantities(frames) or ["sparsity"],
            [html.H3("The front"), front_table(frames)],
        )  # fmt: skip

    @app.callback(
        Output("front", "figure"), Input("version", "data"), Input("x", "value"), Input("y", "value"),
        Input("trial", "value"), State("study", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def front(_: str, x: str, y: str, number: int | None, name: str) -> Any:
        return untitled(front_figure(source.load(name), x, y, selected=number))[1]

    @app.callback(
        Output("layers", "children"), Input("version", "data"), Input("quantity", "value"), Input("scope", "value"),
        State("study", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def layers(_: str, quantity: str, scope: str, name: str) -> Any:
        frames = source.load(name)
        return graph(layers_by_trial(frames, quantity, frames.front() if scope == "front" else None))


def _add_trial(app: Dash, source: Source, prefix: str) -> None:
    """What concerns the trial that is shown."""

    @app.callback(
        Output("trial", "options"), Output("trial", "value"), Output("followed", "data"),
        Input("version", "data"), Input("front", "clickData"), Input("before", "n_clicks"), Input("next", "n_clicks"),
        Input("to-best", "n_clicks"), State("trial", "value"), State("followed", "data"), State("study", "data"),
        prevent_initial_call=True,
    )  # fmt: skip
    def choose(
        _: str, click: Any, _b: int, _n: int, _t: int, shown: int | None, followed: int | None, name: str
    ) -> tuple[Any, Any, Any]:
        frames = source.load(name)
        number = _chosen(frames, ctx.triggered_id, click, shown, followed)
        return _options(frames), no_update if number == shown else number, frames.best

    @app.callback(
        Output("trial-card", "children"), Input("trial", "value"), Input("version", "data"), State("study", "data"),
        prevent_initial_call=True,
    )  # fmt: skip
    def trial(number: int | None, _: str, name: str) -> Any:
        return trial_card(source.load(name), number)

    @app.callback(
        Output("trial-title", "children"), Output("trial-figures", "children"), Input("trial", "value"),
        State("study", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def detail(number: int | None, name: str) -> tuple[Any, Any]:
        title = "" if number is None else f"Trial {number} in detail"
        return title, trial_cards(source.load(name), number)

    if source.link is not None:

        @app.callback(Output("run", "href"), Input("trial", "value"), State("study", "data"))
        def run(number: int | None, name: str) -> Any:
            return no_update if number is None else f"{prefix}-/mlflow/{quote(name)}/{number}"

    if source.export is not None:
        _add_export(app, source.export, prefix)


def _add_export(app: Dash, export: Callable[[str, int], Path], prefix: str) -> None:
    """The button that hands out a network."""

    @app.callback(
        Output("download", "href"), Output("exported", "children"), Input("export", "n_clicks"),
        State("trial", "value"), State("study", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def prepare(_: int, number: int | None, name: str) -> tuple[Any, Any]:
        if number is None:
            return no_update, "No trial is decided yet."
        try:
            file = export(name, number)
        except PleachError as error:
            return no_update, str(error)
        size = file.stat().st_size / 2**20
        address = f"{prefix}-/export/{quote(name)}/{number}"
        return address, ["Trial ", str(number), " is downloaded: ", html.A(f"{size:.1f} MB", href=address)]


def _chosen(frames: Frames, by: str | None, click: Any, shown: int | None, followed: int | None) -> int | None:
    """The trial to show: what was asked for, else what is shown, else the best, which is followed as it changes."""
    known = [int(number) for number in frames.trials["number"]]
    if by == "front" and click:
        data = click["points"][0].get("customdata")
        return int(data[0]) if data else shown
    if by in ("before", "next") and shown in known:
        return known[(known.index(shown) + (1 if by == "next" else -1)) % len(known)]
    if by == "to-best" or shown is None or shown == followed:
        return frames.best if frames.best is not None else (known[-1] if known else None)
    return shown


def _options(frames: Frames) -> list[dict[str, Any]]:
    """The trials as a field offers them, the latest last."""
    kinds = kinds_of(frames.trials)
    return [
        {"label": f"{number} {'best' if number == frames.best else kind}", "value": int(number)}
        for number, kind in zip(frames.trials["number"], kinds, strict=True)
    ]


def _links(frames: Frames, prefix: str, *, linked: bool) -> list[Any]:
    name = quote(frames.study)
    links = [
        html.A("Report", href=f"{prefix}-/report/{name}", className="button", title="one file that stands alone"),
        html.A("Table", href=f"{prefix}-/trials/{name}", className="button", title="all trials as CSV"),
    ]
    if linked:
        links.insert(0, html.A("MLflow", href=f"{prefix}-/mlflow/{name}", className="button", target="_blank"))
    return links


def _download(text: str, kind: str, name: str) -> Response:
    disposition = f"attachment; filename*=UTF-8''{quote(name)}"
    return Response(text, content_type=f"{kind}; charset=utf-8", headers={"Content-Disposition": disposition})
