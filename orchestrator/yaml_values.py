"""YAML as people mean it: a key stands once, and ``1e-3`` is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Plain values only; what YAML 1.1 takes for text though it looks like a number is one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that stands twice, of which the first would be lost without a word."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value} is there twice"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_values(text: str) -> Any:
    """Return the values of a YAML document.

    Raises:
        yaml.YAMLError: it is none, or a key stands twice.
        ValueError: a value is none, such as the date 2024-13-45.
    """
    return yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
