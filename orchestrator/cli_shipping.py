"""Commands that carry a model out of the registry, and use it."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.cli_options import Json, Model, TrackingUri
from orchestrator.errors import UserError
from orchestrator.terminal import FAILED, err, out, say, show

if TYPE_CHECKING:
    from deploy.drawing import Drawn
    from deploy.manifest import Manifest
    from deploy.prediction import Prediction
    from orchestrator.wanted import Wanted


class Format(StrEnum):
    """Forms that a network is exported in."""

    onnx = "onnx"
    pt2 = "pt2"


class Engine(StrEnum):
    """What computes predictions."""

    torch = "torch"
    onnx = "onnx"


ModelOrFolder = Annotated[
    str,
    typer.Argument(metavar="MODEL|FOLDER", help="Registered model's name, or an exported folder."),
]
Alias = Annotated[str | None, typer.Option(help="Alias of the version.", show_default="champion")]
Version = Annotated[int | None, typer.Option(min=1, help="The version itself, not an alias.")]
Store = Annotated[str, typer.Argument(metavar="s3://BUCKET/PREFIX", help="Where to.")]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to write.")]
AllowImport = Annotated[
    bool, typer.Option("--allow-import", help="Run the code that import: names (supernet, task).")
]


def export(
    model: Model,
    out_folder: Out,
    alias: Alias = None,
    version: Version = None,
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="By default all of them.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="An ONNX network of 8 bits too.")] = False,
    allow_import: AllowImport = False,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Write a version as a folder: weights, pt2, ONNX, model card, manifest; all checked."""
    from orchestrator import shipping

    wanted = _wanted(model, alias, version, tracking_uri, allow_import)
    chosen = [f.value for f in formats] if formats else None
    with told("exported"), err.status("registry") as status:
        manifest, checks = shipping.export(
            wanted, out_folder, formats=chosen, int8=int8, tell=status.update
        )
    document = {"folder": str(out_folder), "written": checks is not None, **_plain(manifest)}
    if checks is None:
        show(document, as_json, [f"{out_folder} holds this export already"])
        return
    document |= {
        "compared_on": checks.images,
        "parity_errors": dict(checks.errors),
        "accuracies": dict(checks.accuracies),
        "validation_images": checks.num_validation,
    }
    if not as_json:
        say(f"compared with torch on {checks.images}")
    table = Table("file", "KiB", "parity error", title=str(out_folder))
    if checks.accuracies:
        table.add_column("accuracy")
    for file in manifest.files:
        error, accuracy = checks.errors.get(file.name), checks.accuracies.get(file.name)
        row = [file.name, f"{file.size / 1024:.1f}", "" if error is None else f"{error:.1e}"]
        if checks.accuracies:
            row.append("" if accuracy is None else f"{accuracy:.4f}")
        table.add_row(*row)
    show(document, as_json, [table])


def predict(
    model: ModelOrFolder,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Images, folders.")],
    alias: Alias = None,
    version: Version = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per image, likeliest first.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    engine: Annotated[Engine, typer.Option(help="What computes.")] = Engine.torch,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="For pictures, where answers are pictures."),
    ] = None,
    allow_import: AllowImport = False,
    tracking_uri: TrackingUri = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
) -> None:
    """Classify image files, and those below folders, prepared as in the sweep's evaluation.

    What a network for another task makes of each image is drawn. MODEL may also be the folder of
    a trial.
    """
    if as_json and as_csv:
        raise UserError("--json and --csv exclude each other; take one")
    from deploy.prediction import Classifier, image_files
    from orchestrator import shipping

    unreadable: list[str] = []

    def note(error: Exception) -> None:
        unreadable.append(str(error))
        say(str(error))

    with told("classified"):
        files = image_files(paths)
        with err.status("model"):
            wanted = _wanted(model, alias, version, tracking_uri, allow_import)
            network = shipping.predictor_of(wanted, engine.value)
        if isinstance(network, Classifier):
            found = network.classify(files, top=top, batch_size=batch_size, unreadable=note)
            _print_predictions(found, as_json, as_csv)
        elif out_folder is None:
            raise UserError(f"--out is missing; task {network.architecture.task} draws pictures")
        else:
            _print_drawn(network.draw(files, out_folder, unreadable=note), as_json)
    if unreadable:
        say(f"{len(unreadable)} of {len(files)} images could not be read")
        raise typer.Exit(FAILED)


def publish(
    model: ModelOrFolder,
    address: Store,
    alias: Alias = None,
    version: Version = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Upload it even if it is there: over damaged or other files."),
    ] = False,
    allow_import: AllowImport = False,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Put a version, or an exported folder, on an object store, signed by PAS_SIGNING_KEY."""
    from orchestrator import shipping

    wanted = _wanted(model, alias, version, tracking_uri, allow_import)
    with told("published"), err.status("store") as status:
        published = shipping.publish(wanted, address, tell=status.update, again=again)
    manifest = published.manifest
    document = {
        "uri": published.uri,
        "uploaded": list(published.uploaded),
        "latest_moved": published.moved,
        **_plain(manifest),
    }
    done = (
        f"{len(published.uploaded)} files uploaded" if published.uploaded else "was there already"
    )
    latest = "latest.json now names it" if published.moved else "latest.json named it before"
    signed = "signed" if manifest.signature else "not signed (PAS_SIGNING_KEY is not set)"
    lines = [f"{published.uri}: {done}, {signed}; {latest}"]
    show(document, as_json, lines)


def fetch(
    address: Annotated[
        str, typer.Argument(metavar="s3://BUCKET/PREFIX", help="What was published to.")
    ],
    out_folder: Out,
    version: Annotated[
        int | None, typer.Option(min=1, help="Which; else the one published last.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a published version and verify it; nothing is left of one that is not intact."""
    from deploy.model_fetching import fetch_folder
    from deploy.published import open_models
    from orchestrator.shipping import signing_key

    key = signing_key()
    with told("fetched"), err.status("store"):
        manifest = fetch_folder(open_models(address), out_folder, version=version, key=key)
    document = {"folder": str(out_folder), "signature_checked": key is not None, **_plain(manifest)}
    checked = "files and signature" if key else "files (no signature: PAS_SIGNING_KEY is not set)"
    line = f"{out_folder}: version {manifest.version} of {manifest.model}, checked: {checked}"
    show(document, as_json, [line])


def _wanted(
    model: str, alias: str | None, version: int | None, tracking_uri: str | None, allow_import: bool
) -> Wanted:
    from orchestrator.wanted import Wanted

    return Wanted(
        model=model,
        alias=alias,
        version=version,
        tracking_uri=tracking_uri,
        allow_import=allow_import,
    )


@contextmanager
def told(done: str) -> Iterator[None]:
    """Tell what goes wrong in one sentence; forms that disagree are a refused gate."""
    from deploy import PackageError, ParityError
    from deploy.manifest import ManifestError
    from deploy.onnx_export import OnnxMissingError
    from pas_trainer import DataError, TaskError

    try:
        yield
    except ParityError as error:
        say(f"not {done}: {error}", "red")
        raise typer.Exit(FAILED) from None
    except (DataError, ManifestError, OnnxMissingError, PackageError, TaskError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"not {done}: {error}; make room, or name another place") from None


def _plain(manifest: Manifest) -> dict[str, Any]:
    return json.loads(manifest.to_bytes())  # type: ignore[no-any-return]


def _print_drawn(drawn: Iterator[Drawn], as_json: bool) -> None:
    """Print what was drawn, as it comes."""
    for one in drawn:
        line = {"path": str(one.path), "picture": str(one.picture), **one.found}
        text = json.dumps(line) if as_json else f"{one.path}: {one.picture}"
        sys.stdout.write(text + "\n")


def _print_predictions(found: Iterator[Prediction], as_json: bool, as_csv: bool) -> None:
    """Print predictions as they come, or a table of all."""
    if as_json:
        for one in found:
            line = {"path": str(one.path), "label": one.label, "probability": one.probability}
            sys.stdout.write(json.dumps(line) + "\n")
        return
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(("path", "label", "probability"))
        writer.writerows((str(one.path), one.label, f"{one.probability:.6f}") for one in found)
        return
    table = Table("image", "class", "probability")
    for one in found:
        table.add_row(escape(str(one.path)), escape(one.label), f"{one.probability:.4f}")
    out.print(table)
