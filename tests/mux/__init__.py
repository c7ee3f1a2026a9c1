"""Tests of the multiplexer without I/O."""
