"""The only public address: it tells connections apart, ends their TLS, and finds the agent of a session.

It holds no key of a certificate authority and takes no access decision that the agent does not take again.
"""
