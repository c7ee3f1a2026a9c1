"""Transports: TCP that writes at once, TLS above any transport, and a bounded HTTP site.

Everything above this floor sees ordinary Twisted transports, endpoints and factories, and never learns
whether it talks over TCP, over a stream of the tunnel, or over the in-memory wire of the tests.
"""
