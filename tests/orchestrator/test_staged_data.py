from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from object_stores import image_folder, png
from ray_nodes import *  # noqa: F403
