"""The system as people run it: processes, PostgreSQL, psql, loopback."""
