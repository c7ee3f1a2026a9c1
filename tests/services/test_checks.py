"""What is looked at before a process opens anything."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config.parser import parse
from teleport_db.errors import ConfigError
from teleport_db.services.process import check_sinks


class SinkTests(SynchronousTestCase):
    def test_links(self) -> None:
        """A sink that leads into the data directory by a link is refused; one beside it is not."""
        here = Path(os.path.abspath(self.mktemp()))
        (here / "data" / "storage").mkdir(parents=True)
        (here / "beside").mkdir()
        (here / "link").symlink_to(here / "data" / "storage")
        for path, refused in (("link/state.sqlite", True), ("data/x", True), ("beside/x", False), ("datax", False)):
            config = parse(
                f"teleport:\n  data_dir: {here}/data\nauth_service:\n  audit:\n    sinks:\n"
                f"    - {{name: a, type: file, path: {here}/{path}}}\n",
                "teleport.yaml",
            )
            if refused:
                error = self.assertRaises(ConfigError, check_sinks, config)
                self.assertIn("choose another directory", str(error))
            else:
                check_sinks(config)
