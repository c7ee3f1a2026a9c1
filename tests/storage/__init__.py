"""Tests of where state is kept."""
