"""Names and codes of events, as Teleport's published event reference has them."""

from __future__ import annotations

#: Codes of events, of those that tell of a success where there are two.
CODES: dict[str, str] = {
    "db.session.start": "TDB00I",
    "db.session.end": "TDB01I",
    "db.session.query": "TDB02I",
    "db.create": "TDB03I",
    "db.update": "TDB04I",
    "db.delete": "TDB05I",
    "db.session.malformed_packet": "TDB06I",
    "db.session.result": "TDB10I",
    # Ours: retention removed files of the audit log.
    "audit.retention": "TAL00I",
    # Ours: files stay longer than retention says, because a sink has not read them; what becomes of sinks.
    "audit.retention.held": "TAL00W",
    "audit.sink.recovered": "TAL01I",
    "audit.sink.failing": "TAL01W",
    "audit.sink.gap": "TAL02W",
    # Ours: somebody reads the audit log.
    "audit.read": "TAL03I",
    "session.recording.access": "T2012I",
    # Ours: the reference has no word for a cancel.
    "db.session.cancel": "TDB90I",
    # Ours: auth had ended a session whose agent was lost, and it goes on.
    "db.session.reopened": "TDB91I",
    "db.session.postgres.statements.parse": "TPG00I",
    "db.session.postgres.statements.bind": "TPG01I",
    "db.session.postgres.statements.execute": "TPG02I",
    "db.session.postgres.statements.close": "TPG03I",
    "db.session.postgres.function": "TPG04I",
    "user.login": "T1000I",
    "user.create": "T1002I",
    "user.update": "T1003I",
    "user.delete": "T1004I",
    "user.password_change": "T1005I",
    # Ours: an administrator lets somebody try again who failed too often.
    "user.unlock": "T1090I",
    "mfa.add": "T1006I",
    "mfa.delete": "T1007I",
    "recovery_code.generated": "T1008I",
    "recovery_code.used": "T1009I",
    "reset_password_token.create": "T6000I",
    "role.created": "T9000I",
    "role.deleted": "T9001I",
    "role.updated": "T9002I",
    "instance.join": "TJ002I",
    # Ours: an agent was removed, and its certificate is good for nothing any more.
    "instance.remove": "TJ090I",
    # Ours: the processes of a cluster, and what they are told to do.
    "service.start": "TSV00I",
    "service.stop": "TSV01I",
    "config.update": "TSV02I",
    # Ours: an agent came, and went; the reference knows sessions of agents only.
    "instance.up": "TJ091I",
    "instance.down": "TJ092I",
    "join_token.create": "TJT00I",
    # Ours as well: the reference tells of tokens that are made, not of those that are taken away.
    "join_token.delete": "TJT01I",
    "lock.created": "TLK00I",
    "lock.deleted": "TLK01I",
    "cert.create": "TC000I",
    "auth_preference.update": "TCAUTH001I",
}

#: Codes of those that tell of a failure.
FAILURE_CODES: dict[str, str] = {
    "db.session.start": "TDB00W",
    "db.session.query": "TDB02W",
    "user.login": "T1000W",
    "user.password_change": "T1005W",
    "mfa_auth_challenge.validate": "T1016W",
    "auth": "T3007W",
    "instance.join": "TJ002E",
    "instance.down": "TJ092W",
}
