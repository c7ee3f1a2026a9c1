"""Tests of the clients of the HTTPS API."""
