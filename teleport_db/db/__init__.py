"""The agent: it dials out, decides access, writes the audit record first, and relays.

It has no open port, and takes nothing on the proxy's word but that the client held its certificate's key.
"""
