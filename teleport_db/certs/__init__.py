"""Keys, certificates and TLS contexts: issuing, verifying, and keeping them in files.

``authority`` issues, ``tls`` makes contexts and says who a peer is, ``keys`` reads and writes PEM, and
``files`` writes secrets so that a kill leaves the old or the new one.
"""
