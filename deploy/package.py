"""The package a trial leaves behind: its architecture as JSON and its weights as safetensors.

Three files in one folder: ``architecture.json``, ``weights.safetensors`` (deploy form) and, where
the parity of the two forms shall be proved later, ``training_weights.safetensors`` (the sliced
network with its training branches). No file is ever unpickled, so a package from a stranger can be
wrong but cannot run code; only a network that names the user's own function (``import:``) does,
and that is refused unless asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pas_trainer import AboutArchitecture, build_compact, task_of
from search_space import Architecture
from search_space.fakes import first_line

ARCHITECTURE_FILE = "architecture.json"
WEIGHTS_FILE = "weights.safetensors"
TRAINING_WEIGHTS_FILE = "training_weights.safetensors"


class PackageError(ValueError):
    """A package file is missing, corrupt, or does not fit the others."""


def deployed_network(architecture: Architecture, network: nn.Module) -> nn.Module:
    """Return a network as it is shipped, see :meth:`pas_trainer.Task.shipped`; in eval mode.

    It takes plain images, float32 in [0, 1], and normalises them itself.

    Args:
        architecture: names the task, gives mean and standard deviation.
        network: of a package, in either form.
    """
    return task_of(architecture).shipped(network, architecture).eval()


def save_package(
    folder: str | os.PathLike[str],
    architecture: Architecture,
    network: nn.Module,
    training_network: nn.Module | None = None,
) -> None:
    """Write a package; each file appears whole or not at all, ``architecture.json`` last.

    Args:
        folder: created if missing; the package's files in it are replaced.
        architecture: what both networks are built from.
        network: the deploy form.
        training_network: the sliced network with its training branches, from which ``network``
            was made; without it the package cannot be promoted.

    Raises:
        PackageError: a network does not fit the architecture.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    contents = {WEIGHTS_FILE: _serialised(architecture, network, WEIGHTS_FILE, deploy=True)}
    if training_network is not None:
        contents[TRAINING_WEIGHTS_FILE] = _serialised(
            architecture, training_network, TRAINING_WEIGHTS_FILE, deploy=False
        )
    document = json.dumps(architecture.to_json(), indent=2, allow_nan=False)
    contents[ARCHITECTURE_FILE] = f"{document}\n".encode()
    _write_all(target, contents)
    if training_network is None:
        (target / TRAINING_WEIGHTS_FILE).unlink(missing_ok=True)


def load_package(
    folder: str | os.PathLike[str], *, deploy: bool = True, allow_import: bool = False
) -> tuple[Architecture, nn.Module]:
    """Read a package; torch's global random state is left as it was.

    Args:
        folder: as written by :func:`save_package`.
        deploy: the deploy form, or else the sliced network with its training branches.
        allow_import: whether an ``import:`` supernet or task may be rebuilt, which runs the code it
            names.

    Returns:
        The architecture and the network on the CPU, in eval mode.

    Raises:
        PackageError: a file is missing, corrupt, or does not fit the others; names the file.
    """
    source = Path(folder)
    architecture = load_trusted(source, allow_import=allow_import)
    try:
        _check_memory(architecture)
        network = build_compact(architecture, deploy=deploy)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        path = source / ARCHITECTURE_FILE
        raise PackageError(f"{path} is not an architecture: {first_line(error)}") from error
    path = source / (WEIGHTS_FILE if deploy else TRAINING_WEIGHTS_FILE)
    state = _read_weights(path)
    _check_fit(state, network, path)
    network.load_state_dict(state)
    return architecture, network.eval()


def load_trusted(folder: str | os.PathLike[str], *, allow_import: bool = False) -> Architecture:
    """Read only ``architecture.json`` of a package whose task and supernet may then be made.

    Raises:
        PackageError: as by :func:`load_architecture`, or that would run code which it names,
            without ``allow_import``.
    """
    architecture = load_architecture(folder)
    for what, name in imported_names(architecture).items():
        if not allow_import:
            raise PackageError(
                f"{Path(folder) / ARCHITECTURE_FILE} names the {what} {name}, whose code would be "
                "run; pass allow_import=True (--allow-import) if you trust it"
            )
    return architecture


def load_architecture(folder: str | os.PathLike[str]) -> Architecture:
    """Read only ``architecture.json`` of a package.

    Raises:
        PackageError: the file is missing, no JSON, or not an architecture.
    """
    path = Path(folder) / ARCHITECTURE_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path} is not JSON: {error}") from error
    try:
        if not isinstance(document, dict):
            raise ValueError("it holds no JSON object")  # noqa: TRY004
        architecture = Architecture.from_json(document)
    except ValueError as error:
        raise PackageError(f"{path} is not an architecture: {error}") from error
    return architecture


def imported_names(architecture: Architecture) -> dict[str, str]:
    """Return what runs the user's own code when a package is loaded: supernet, task, by name."""
    both = {"supernet": architecture.supernet, "task": architecture.task}
    return {what: name for what, name in both.items() if name.startswith("import:")}


def content_hash(folder: str | os.PathLike[str]) -> str:
    """SHA-256 (hexadecimal) of a package's architecture and deploy-form weights.

    Raises:
        PackageError: one of the two files cannot be read.
    """
    digest = hashlib.sha256()
    for name in (ARCHITECTURE_FILE, WEIGHTS_FILE):
        path = Path(folder) / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PackageError(f"{path} cannot be read: {error.strerror}") from error
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _serialised(
    architecture: Architecture, network: nn.Module, name: str, *, deploy: bool
) -> bytes:
    state = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in network.state_dict().items()
    }
    _check_fit(state, build_compact(architecture, deploy=deploy), Path(name))
    return save(state, metadata={"format": "pt"})


def _check_memory(architecture: Architecture) -> None:
    """Refuse a document that promises a supernet larger than this machine's memory."""
    task, about = task_of(architecture), AboutArchitecture(architecture)
    supernet = task.build(architecture.supernet, architecture.options, about, on_meta=True)
    need = sum(tensor.nbytes for tensor in supernet.state_dict().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory:
        raise ValueError(f"its supernet takes {need >> 20} MiB, the memory is {memory >> 20} MiB")


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        reason = error.strerror or "no such file or not readable"
        raise PackageError(f"{path} cannot be read: {reason}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise PackageError(f"{path} is not a safetensors file: {error}") from error


def _check_fit(state: Mapping[str, Tensor], network: nn.Module, path: Path) -> None:
    expected = network.state_dict()
    odd = sorted(set(state) ^ set(expected))
    if odd:
        raise PackageError(f"{path} does not fit the architecture: missing or unknown {odd[0]}")
    for name, tensor in expected.items():
        found = state[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise PackageError(
                f"{path} does not fit the architecture: {name} is {found.dtype} "
                f"{tuple(found.shape)}, expected {tensor.dtype} {tuple(tensor.shape)}"
            )


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write every file under a temporary name first, then move them in place in order."""
    temporary = {name: folder / f".{name}.{uuid.uuid4().hex}.tmp" for name in contents}
    try:
        for name, content in contents.items():
            with temporary[name].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name, path in temporary.items():
            path.replace(folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
