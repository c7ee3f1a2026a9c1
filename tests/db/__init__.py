"""Tests of teleport_db.db."""
