"""From a configuration to running services: the only place where the rooms are wired together.

::

    Teleport            auth opens first, then the proxy, then the agent; they close the other way round
      auth     state, audit log, API
      proxy    certificates from auth in this process, or joined by token at auth
      db       certificates from auth in this process, or joined by token at a proxy
"""

from teleport_db.services.process import Teleport, run

__all__ = ["Teleport", "run"]
