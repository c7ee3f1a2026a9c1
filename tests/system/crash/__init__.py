"""kill -9 under load, again and again, and the reckoning afterwards.

::

    traffic     a dozen clients; each writes down in the ledger what it saw complete before it goes on
    fuse        auth, proxy or agent in a process that kills itself at a named point, when it is told to
    apart       the cluster: auth, proxy and agent are a process each
    rounds      kill, start again, let everything come through, once more
    reckoning   what the clients saw, what PostgreSQL ran, what the audit log has: do they agree?

``script/crash`` runs as many rounds as one likes, ``tests/system/test_crash_rounds.py`` a few.
"""
