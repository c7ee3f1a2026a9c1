"""Sends the audit log on: to files, syslog, HTTPS, S3.

::

    AuditLog ──▶ its files ──▶ Reader (a thread) ──▶ Batch ──▶ Target ──▶ acknowledged ──▶ cursor on the disk
        └─ changed() wakes ──────▲                               └─ failed: wait, the same again

The log is the queue: nothing of it is held in memory for a sink that is away, and whoever writes the log waits for no
sink.  A cursor moves when the other side has what is before it, so each line goes at least once, and in order.
"""
