"""AWS for tests: moto's server in this process, and an environment from which nothing real can be reached.

::

    class MyTests(SynchronousTestCase):
        def setUp(self) -> None:
            self.aws = moto(self)          # a fresh account; os.environ of this test leads there only
            self.aws.client("rds").create_db_instance(...)

The chain of credentials would otherwise look for files in the home directory and for an instance's metadata.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

KEY, SECRET = "AKIATESTTESTTESTTEST", "test+secret/of+nobody"
#: moto's only account.
ACCOUNT = "123456789012"
REGION = "us-west-1"
#: An address where nobody listens: what asks it fails at once.
NOWHERE = "http://127.0.0.1:9"
DENIAL = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not authorized</Message></Error></ErrorResponse>"


def environment(directory: str | Path, endpoint: str = NOWHERE, *, credentials: bool = True) -> dict[str, str]:
    """Variables with which boto3 asks ``endpoint`` and nothing else.

    :param directory: where its shared files would be.
    """
    found = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(Path(directory) / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(Path(directory) / "aws-credentials"),
        "NO_PROXY": "*",
    }
    if credentials:
        found |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    return found


def use(case: SynchronousTestCase, variables: Mapping[str, str]) -> None:
    """Give this process these variables of AWS's and no others, for one test."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    before = dict(os.environ)

    def restore() -> None:
        os.environ.clear()
        os.environ.update(before)

    case.addCleanup(restore)
    os.environ.clear()
    os.environ.update({**clean, **variables})


class Moto:
    """The server.

    :ivar url: its endpoint.
    """

    def __init__(self) -> None:
        from moto.iam.responses import IamResponse
        from moto.server import ThreadedMotoServer

        # What moto has not it would answer with a traceback on stderr; here nobody may ask for it.
        IamResponse.simulate_principal_policy = lambda _: (DENIAL, {"status": 403})
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._clients: dict[tuple[str, str], Any] = {}
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"

    def reset(self) -> None:
        """Nothing is there any more."""
        self._post("/moto-api/reset", {})

    def _post(self, path: str, body: Any) -> None:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request):
            pass

    def client(self, name: str, region: str = REGION) -> Any:
        """A client of the account's owner."""
        import boto3

        if (name, region) not in self._clients:
            session = boto3.session.Session(KEY, SECRET, region_name=region)
            self._clients[name, region] = session.client(name, endpoint_url=self.url)
        return self._clients[name, region]

    def close(self) -> None:
        """Stop it."""
        self._server.stop()


_moto: list[Moto] = []


def moto(case: SynchronousTestCase) -> Moto:
    """The run's one server, emptied, and this process's environment leading to it."""
    if not _moto:
        _moto.append(Moto())
        atexit.register(_moto[0].close)
    server = _moto[0]
    server.reset()
    use(case, environment(case.mktemp(), server.url))
    return server
