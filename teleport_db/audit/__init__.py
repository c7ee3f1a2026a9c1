"""What happened, kept: events, the agent's spool, its shipping, and the auth server's log.

::

    SessionEvents --event--> Spool (agent's disk) --Shipper--> API --> AuditLog (auth's disk)

``events`` and ``redaction`` are pure.  A statement goes to the database only after :meth:`Spool.append` has
returned for it.
"""
