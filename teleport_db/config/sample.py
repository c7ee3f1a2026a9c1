"""The file that ``teleport configure`` prints: one process with everything in it."""

SAMPLE = """\
# A Teleport process with the auth service and the proxy.
# Start it with:  teleport start --config=/etc/teleport.yaml
teleport:
  # The name of this machine; by default the host's own.
  # nodename: teleport
  # State, keys and the audit log.  Only this process's user can read it.
  data_dir: /var/lib/teleport
  log:
    # stderr, stdout, syslog, or the path of a file.
    output: stderr
    # DEBUG, INFO, WARN or ERROR.
    severity: INFO
    # text or json.
    format: text
  storage:
    type: sqlite
  # A process without an auth service joins a cluster instead:
  # auth_token: /var/lib/teleport/token       # a token, or the path of a file with one
  # auth_servers: ["teleport.example.com:3080"]
  # ca_pin: "sha256:..."                      # tctl status prints it

auth_service:
  enabled: "yes"
  listen_addr: 0.0.0.0:3025
  # By default the nodename.  It is part of every certificate: choose it once.
  # cluster_name: example
  # Tokens that never expire, for a try-out; `tctl tokens add` makes better ones.
  # tokens:
  # - proxy,node,database:/var/lib/teleport/token
  authentication:
    type: local
    # off, otp, on or optional.
    second_factor: otp
  # Sessions without a query for so long are ended; "never" is the default.
  # client_idle_timeout: 30m
  # Whether sessions end when the certificate they came with does.
  # disconnect_expired_cert: yes
  # Files of the audit log: how large they grow, how long they are kept ("never" removed is the default), and
  # whether those that are full are compressed.
  # audit:
  #   max_file: 64MiB
  #   retention: 365d
  #   compress: yes
  #   # Where it is sent on to: type file, syslog, https or s3.
  #   sinks:
  #   - {name: copy, type: file, path: /var/log/teleport/audit.jsonl}
  #   - {name: collector, type: syslog, address: "logs.example.com:6514", ca_file: /etc/teleport/logs.cas}

proxy_service:
  enabled: "yes"
  # HTTPS and PostgreSQL.
  web_listen_addr: 0.0.0.0:3080
  # Agents.
  tunnel_listen_addr: 0.0.0.0:3024
  # What clients and agents call this proxy.
  # public_addr: teleport.example.com:3080
  # A certificate that browsers trust; without it the proxy signs its own.
  # https_key_file: /etc/letsencrypt/live/teleport.example.com/privkey.pem
  # https_cert_file: /etc/letsencrypt/live/teleport.example.com/fullchain.pem

ssh_service:
  enabled: "no"

db_service:
  enabled: "no"
  # Databases that are registered in the cluster (`tctl create`, kind: db) and have these labels.
  # resources:
  # - labels: {env: dev}
  # While the auth service is away: best_effort lets new sessions in for so long, strict none.
  # auth_away: best_effort
  # auth_away_max_age: 1h
  # audit:
  #   durability: fsync               # a statement waits until its record is on the disk; default: write
  #   statement_messages: "yes"       # each Parse, Bind, Execute and Close gets an event as well; default: no
  databases: []
  # databases:
  # - name: "postgres"                # what `tsh db ls` shows: lower case, digits, '-'
  #   description: "The main database"
  #   protocol: "postgres"
  #   uri: "db.example.com:5432"
  #   ca_cert_file: /etc/ssl/db.cas   # what the server's certificate is verified with
  #   # aws:                          # for RDS and Aurora
  #   #   region: us-east-1
  #   # credentials:                  # for servers that want passwords
  #   #   users:
  #   #     alice: {password_file: /etc/teleport/alice.password}
  #   static_labels:
  #     env: dev
  #   dynamic_labels:
  #   - name: version
  #     command: ["/usr/local/bin/pg-version", "--short"]
  #     period: 5m
  # Databases of Amazon RDS and Aurora, found by their tags:
  # aws:
  # - types: [rds]
  #   regions: [us-east-1]
  #   tags: {env: [dev, stage]}
"""


def sample_config() -> str:
    """The text of the sample: it parses as it is."""
    return SAMPLE
