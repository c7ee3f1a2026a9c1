"""Tests of the PostgreSQL protocol, byte by byte."""
