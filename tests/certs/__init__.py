"""Tests of keys, certificates and TLS contexts."""
