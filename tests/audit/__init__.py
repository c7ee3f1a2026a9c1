"""Tests of events, the spool, its shipping and the log."""
