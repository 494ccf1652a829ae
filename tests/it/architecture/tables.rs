//! The tables of the laws: which room may import which, and which crates stay where.

/// Which layers each layer may import, besides itself. A layer is a top-level module of the crate.
pub(super) const MAY_IMPORT: &[(&str, &[&str])] = &[
    // Values and means: know nothing of what is built from them.
    ("clock", &[]),
    ("proto", &[]),
    ("telemetry", &[]),
    ("metrics", &[]),
    ("model", &["clock"]),
    ("database_url", &[]),
    ("reload", &["metrics", "telemetry"]),
    // Identities and rights: names and rules, whatever carries them.
    ("rights", &["model"]),
    ("access", &["clock", "jwt", "metrics", "model", "reload", "rights", "telemetry"]),
    // Tokens and keys as texts: knows neither the policy nor the network.
    ("jwt", &[]),
    // Fetches the keys that the policy names.
    ("jwks", &["access", "jwt", "metrics", "tls"]),
    // Access decides which identity a client certificate names.
    ("tls", &["access", "clock", "metrics", "reload", "telemetry"]),
    // Makes the files that the two read.
    ("provision", &["access", "tls"]),
    // The budget is a value that the settings name.
    ("config", &["access", "audit", "provision", "telemetry", "database_url", "model", "tls"]),
    ("lifecycle", &["telemetry"]),
    // PostgreSQL, and what speaks to it.
    // Which schema: SQL and a choice, apart from how a session begins.
    ("locate", &[]),
    ("postgres", &["database_url", "locate", "telemetry", "tls"]),
    ("store", &["postgres", "model", "clock", "metrics", "telemetry"]),
    // What a database holds of ours, as text.
    ("schema", &[]),
    // Their texts, and what these say: knows no database.
    ("migrations", &["schema"]),
    // What changes a schema: transactions, turns, history, repair. The commands and the copy are built from it.
    ("runner", &["migrations", "postgres", "schema"]),
    // What is asked of a schema, by URL and by session: plans, detection and adoption read it, and only the runner changes it.
    ("migrate", &["locate", "migrations", "postgres", "runner", "schema"]),
    // A registry in another server, by the runner's means.
    ("copy", &["migrate", "migrations", "postgres", "runner"]),
    // SeedCore's other migrations: the runner's means, another history.
    ("suite", &["migrate", "migrations", "postgres", "runner", "schema"]),
    // A server process of our own, told by its URL alone.
    ("local", &["postgres", "telemetry"]),
    // What is taken in, before it is applied.
    ("admission", &["model", "clock", "metrics", "telemetry"]),
    ("registry", &["admission", "store", "model", "clock", "metrics", "telemetry"]),
    ("feed", &["store", "model", "clock", "metrics", "telemetry"]),
    // Memory: what is known, without a way to ask for more.
    // What a caller may not read is not looked at.
    ("view", &["access", "model", "clock", "metrics"]),
    // What needs a pass over all of it.
    ("stats", &["access", "view", "model"]),
    // The one judgement of health: a pure function of values.
    ("status", &["model"]),
    // What the outside sees.
    ("api", &["access", "json", "stats", "view", "model", "status"]),
    ("http", &["access", "api", "audit", "lifecycle", "metrics", "stats", "view", "model", "status", "tls"]),
    // Messages and errors of protobuf, apart from the calls.
    ("wire", &["access", "registry", "rights", "view", "model", "proto", "status"]),
    ("connections", &["access", "rights", "wire", "model", "metrics", "telemetry", "tls"]),
    // Which decisions about callers are recorded.
    ("audit", &["clock", "metrics", "model", "telemetry"]),
    // In front of all calls.
    ("gate", &["access", "audit", "clock", "connections", "metrics", "registry", "wire"]),
    (
        "grpc",
        &[
            "access",
            "audit",
            "connections",
            "gate",
            "wire",
            "registry",
            "rights",
            "view",
            "model",
            "proto",
            "rights",
            "lifecycle",
            "metrics",
            "clock",
            "stats",
            "status",
            "telemetry",
            "tls",
        ],
    ),
    // The one place that knows every part.
    ("daemon", EVERYTHING),
    // What a person sees, and a child process: know nothing of the registry.
    ("terminal", &["telemetry"]),
    ("supervise", &[]),
    // The protocol as JSON, for commands and API.
    ("json", &["terminal"]),
    // What a client can see between itself and the database.
    ("check", &["status", "migrate", "postgres", "store", "terminal", "tls"]),
    // Two servers of a private PostgreSQL and the copy between them; with its command, as bench.
    ("upgrade", &["copy", "local", "migrate", "terminal"]),
    // Load over the bare wire.
    ("bench", &["terminal", "model", "proto"]),
    // What commands share; its error names every way in which a command can fail.
    (
        "command",
        &[
            "access",
            "config",
            "daemon",
            "migrate",
            "postgres",
            "provision",
            "status",
            "telemetry",
            "terminal",
            "tls",
            "upgrade",
        ],
    ),
    // Arguments and rendering, on musterd-client.
    (
        "cli",
        &[
            "access",
            "bench",
            "check",
            "clock",
            "command",
            "config",
            "daemon",
            "json",
            "migrate",
            "model",
            "postgres",
            "provision",
            "status",
            "store",
            "suite",
            "supervise",
            "telemetry",
            "terminal",
            "tls",
            "upgrade",
        ],
    ),
    ("main", &["cli", "command", "supervise"]),
];

const EVERYTHING: &[&str] = &[
    "access",
    "admission",
    "api",
    "audit",
    "clock",
    "config",
    "connections",
    "feed",
    "grpc",
    "http",
    "jwks",
    "lifecycle",
    "local",
    "metrics",
    "migrate",
    "model",
    "postgres",
    "registry",
    "stats",
    "status",
    "store",
    "telemetry",
    "tls",
    "view",
];

/// What test code inside a layer may import on top of that.
pub(super) const TESTS_MAY_IMPORT: &[(&str, &[&str])] =
    &[("gate", &["proto"]), ("http", &["clock"]), ("stats", &["clock"])];

/// Edges that DESIGN.md forbids for good: the tables above must never grow to hold one.
pub(super) const NEVER: &[(&str, &[&str])] = &[
    ("model", &["store", "registry", "feed", "view", "grpc", "http", "cli", "daemon", "proto", "metrics"]),
    ("postgres", &["store", "model", "registry", "feed", "view", "grpc", "http", "cli", "daemon", "proto"]),
    ("store", &["migrate", "runner", "local", "registry", "feed", "view", "grpc", "http", "cli", "daemon", "proto"]),
    (
        "runner",
        &["migrate", "copy", "suite", "store", "registry", "feed", "view", "grpc", "http", "cli", "daemon", "proto"],
    ),
    (
        "status",
        &["store", "registry", "feed", "view", "grpc", "http", "cli", "daemon", "proto", "metrics", "lifecycle"],
    ),
    ("admission", &["store", "registry", "view", "feed", "grpc", "http", "cli", "daemon", "proto"]),
    ("registry", &["view", "feed", "grpc", "http", "cli", "daemon", "proto"]),
    ("feed", &["view", "registry", "grpc", "http", "cli", "daemon", "proto"]),
    ("access", &["store", "registry", "view", "grpc", "http", "cli", "daemon", "proto"]),
    ("stats", &["store", "registry", "feed", "grpc", "http", "api", "cli", "daemon", "proto"]),
    ("view", &["stats", "store", "registry", "feed", "grpc", "http", "cli", "daemon", "proto"]),
    ("api", &["store", "registry", "feed", "grpc", "http", "cli", "daemon", "proto", "metrics", "lifecycle"]),
    ("http", &["store", "grpc", "cli", "daemon", "proto"]),
    ("wire", &["store", "feed", "grpc", "http", "cli", "daemon"]),
    ("connections", &["store", "feed", "registry", "view", "grpc", "http", "cli", "daemon"]),
    ("grpc", &["store", "feed", "http", "cli", "daemon"]),
    // Messages of the wire are the business of musterd-client.
    ("cli", &["registry", "feed", "view", "grpc", "http", "proto"]),
    ("command", &["cli", "registry", "feed", "view", "grpc", "http", "proto"]),
    ("terminal", &["cli", "json", "model", "proto", "store"]),
    ("json", &["cli", "api", "view", "store", "proto"]),
    ("check", &["cli", "grpc", "proto"]),
    ("bench", &["cli", "store", "registry", "view", "grpc", "daemon"]),
];

/// Crates that belong to some layers only: what they stand for must not leak.
pub(super) const CRATES_STAY_IN: &[(&str, &[&str])] = &[
    (
        "tokio_postgres",
        &["postgres", "locate", "schema", "store", "runner", "migrate", "copy", "suite", "local", "database_url"],
    ),
    ("deadpool", &["postgres"]),
    ("deadpool_postgres", &["postgres"]),
    ("rustls", &["tls", "postgres"]),
    ("tokio_rustls", &["tls"]),
    ("musterd_client", &["bench", "check", "cli", "command", "json"]),
    ("rcgen", &["tls"]),
    ("x509_cert", &["tls"]),
    ("toml", &["access", "config"]),
    // The benchmark measures the wire itself; every other command speaks it through musterd-client.
    ("prost", &["gate", "grpc", "wire", "bench", "proto"]),
    ("prost_types", &["gate", "grpc", "wire", "bench", "proto"]),
    ("tonic", &["proto", "gate", "grpc", "wire", "connections", "bench"]),
    ("tonic_types", &["wire", "bench"]),
    ("axum", &["api", "http"]),
    ("clap", &["bench", "cli", "command", "config", "main", "telemetry", "terminal", "upgrade"]),
];
