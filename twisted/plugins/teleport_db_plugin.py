"""Makes ``twistd teleport-db`` known; what it starts is loaded when it is asked for."""

from twisted.application.service import ServiceMaker

teleport_db = ServiceMaker(
    "Teleport Database Access",
    "teleport_db.tap",
    "The auth, proxy and database services of a Teleport configuration file.",
    "teleport-db",
)
