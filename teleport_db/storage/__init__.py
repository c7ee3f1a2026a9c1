"""Where state is kept: implementations of :class:`~teleport_db.interfaces.IBackend`."""
