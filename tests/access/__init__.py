"""Tests of teleport_db.access."""
