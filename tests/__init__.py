"""The tests mirror the packages of ``teleport_db``."""
