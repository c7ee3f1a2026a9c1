"""A database access proxy on Twisted: PostgreSQL through certificates, a reverse tunnel and an audit log."""

__version__ = "0.1.0"
