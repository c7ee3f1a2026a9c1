"""Tests of tunnels and their streams."""
