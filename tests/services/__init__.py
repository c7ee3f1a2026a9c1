"""Tests of the services of a process."""
