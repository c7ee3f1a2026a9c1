"""Tests of teleport_db.config."""
