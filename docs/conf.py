"""Sphinx's configuration: ``python -m sphinx -W -b html docs docs/_build/html``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from teleport_db import __version__

project = "teleport_db"
copyright = "the authors of teleport_db"
version = release = __version__
extensions: list[str] = []
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Teleport Database Access on Twisted", "page_width": "1000px"}
highlight_language = "none"
nitpicky = True
