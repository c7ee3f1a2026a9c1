"""A database that is registered while its agent runs, and an agent that is removed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests import postgres
from tests.system.support import STATIC_TOKEN, Process, World, closing_on_failure, shared, until

AGENT = """\
teleport:
  data_dir: {directory}/agent
  auth_token: {token}
  auth_servers: ["localhost:{web}"]
auth_service: {{enabled: no}}
proxy_service: {{enabled: no}}
db_service:
  enabled: yes
  resources:
  - labels: {{env: test}}
"""

DATABASE = """\
kind: db
version: v3
metadata:
  name: orders
  description: "Orders"
  labels: {{env: test}}
spec:
  protocol: postgres
  uri: localhost:{port}
"""


def build() -> World:
    """auth and proxy, an agent without a database, carol who administers from elsewhere."""
    with closing_on_failure(World()) as world:
        world.start_auth()
        world.certify()
        world.postgres.sql("CREATE USER carol; CREATE DATABASE metrics OWNER carol;")
        world.file("agent.yaml", AGENT.format(directory=world.directory, token=STATIC_TOKEN, web=world.web))
        world.start("agent", "teleport", "start", "--debug", "--insecure", "--config=agent.yaml").until_up()
        carol = world.person("carol").invited("--roles=admin", "--db-names=metrics", "--db-users=carol")
        carol.login()
    return world


class RegisteredTests(SynchronousTestCase):
    skip = postgres.skip

    def setUp(self) -> None:
        self.world = shared(build)
        self.carol = self.world.person("carol")

    def tctl(self, *words: str) -> str:
        """Run ``tctl`` with carol's login, as from a laptop."""
        return self.world.run("tctl", *words, environment=self.carol.environment).text

    def sleeping(self, mark: str) -> Process:
        psql = self.world.start(
            f"psql-{mark}",
            *self.world.client("psql"),
            *("-X", "-c", f"SELECT pg_sleep(120) AS {mark}", self.carol.service("orders")),
            environment=self.carol.environment,
        )
        running = f"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%120) AS {mark}'"
        until(lambda: self.world.postgres.sql(running).strip() == "1", "psql runs its statement")
        return psql

    def listed(self) -> str:
        return self.carol.tsh("db", "ls").text

    def test_life(self) -> None:
        """Taken up, locked, dropped, taken up again; then its agent is removed."""
        file = self.world.file("orders.yaml", DATABASE.format(port=self.world.postgres.port))
        self.tctl("create", "-f", str(file))
        self.world.until_served("orders")
        until(lambda: "orders" in self.listed(), "tsh db ls")
        self.carol.tsh("db", "login", "--db-user=carol", "--db-name=metrics", "orders")
        psql = self.sleeping("locked")
        lock = self.tctl("lock", "--db=orders", "--message=upgrade")
        psql.until_said('database service "orders" is locked: upgrade')
        self.tctl("rm", next(word for word in lock.split() if word.startswith("lock/")))
        until(lambda: self.carol.psql(self.carol.service("orders"), "SELECT 1", fails=None).code == 0, "the lock's end")

        psql = self.sleeping("dropped")
        self.tctl("rm", "db/orders")
        psql.until_said('database service "orders" is not served here any more')
        until(lambda: "orders" not in self.listed(), "tsh db ls")

        self.tctl("create", "-f", str(file))
        self.world.until_served("orders")
        psql = self.sleeping("removed")
        (agent,) = (line.split()[1] for line in self.tctl("get", "db_server", "--format=text").splitlines()[2:])
        self.tctl("rm", f"db_server/{agent}")
        psql.until_said("the agent of this database was removed from the cluster")
        self.world.processes[1].until_said("this agent was removed from the cluster")
        no_agent = "no agent of database service"
        until(lambda: no_agent in self.carol.psql(self.carol.service("orders"), "SELECT 1", fails=True).text, no_agent)
        (event,) = self.world.until_recorded(event="instance.remove")
        self.assertEqual((event["user"], event["server_id"], event["addr.remote"]), ("carol", agent, "127.0.0.1"))
        made = self.world.events(event="db.create", user="carol", name="orders")
        self.assertEqual([event["code"] for event in made], ["TDB03I", "TDB03I"])
