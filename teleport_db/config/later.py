"""What Teleport has and this system does not have yet: keys and words refused in a line of their own."""

SECTIONS = ["version", "metrics_service", "tracing_service", "discovery_service", "jamf_service", "okta_service"]
TELEPORT = [
    "connection_limits",
    "ciphers",
    "kex_algos",
    "mac_algos",
    "ca_signature_algo",
    "cache",
    "keys",
    "proxy_server",
    "auth_server",
    "join_params",
]
STORAGE = ["path", "region", "table_name", "audit_events_uri", "audit_sessions_uri", "peers", "prefix"]
STORAGE_TYPES = ["dir", "bolt", "etcd", "dynamodb", "firestore", "postgres", "postgresql", "cockroachdb"]
AUTH = [
    "public_addr",
    "trusted_clusters",
    "reverse_tunnels",
    "license_file",
    "proxy_checks_host_keys",
    "oidc_connectors",
    "saml_connectors",
    "keep_alive_interval",
    "keep_alive_count_max",
    "kubeconfig_file",
    "client_idle_timeout_message",
    "session_control_timeout",
    "max_connections",
    "message_of_the_day",
    "ca_key_params",
    "proxy_listener_mode",
]
AUTHENTICATION = [
    "u2f",
    "webauthn",
    "connector_name",
    "require_session_mfa",
    "local_auth",
    "passwordless",
    "locking_mode",
]
PROXY = [
    "https_keypairs",
    "acme",
    "kube_listen_addr",
    "kube_public_addr",
    "kubernetes",
    "ssh_public_addr",
    "tunnel_public_addr",
    "mysql_listen_addr",
    "mysql_public_addr",
    "postgres_listen_addr",
    "postgres_public_addr",
    "mongo_listen_addr",
    "mongo_public_addr",
    "proxy_protocol",
    "peer_listen_addr",
    "trust_x_forwarded_for",
]
DB = ["azure"]
DATABASE = ["gcp", "azure", "tls", "mysql", "ad", "mongo", "oracle", "admin_user"]
AWS_TYPES = ["rdsproxy", "redshift", "redshift-serverless", "elasticache", "memorydb", "opensearch", "ec2", "eks"]
AWS = ["redshift", "iam_policy", "secret_store", "elasticache", "memorydb", "account_id"]
