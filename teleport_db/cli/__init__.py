"""The commands ``teleport``, ``tctl`` and ``tsh``.

A command is imported only when it is called, and nothing of Twisted, cryptography, yaml or attrs is
imported unless that one command needs it: the person at the terminal waits for every import.  So facts
are named tuples here where the rest of the project uses attrs.
"""
