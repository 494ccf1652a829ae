//! The rules of the settings, at both ends of each.

use super::*;

pub(super) fn config() -> ServeConfig {
    ServeConfig {
        database_url: None,
        schema: None,
        registries: Vec::new(),
        grpc_addr: SocketAddr::from(([127, 0, 0, 1], 7717)),
        grpc_connections_per_address: 1_000,
        budget: Budget { records: 2_000_000, bytes: 1 << 30 },
        http_addr: SocketAddr::from(([127, 0, 0, 1], 7718)),
        http_hosts: Vec::new(),
        tls: None,
        access: None,
        insecure_no_tls: false,
        insecure_no_auth: false,
        admin_socket: AdminSocket::None,
        audit: AuditScope::Decisions,
        audit_file: None,
        data_dir: PathBuf::from("/var/lib/musterd"),
        postgres_bin_dir: None,
        keep_dead: Duration::from_secs(86_400),
        keep_history: Duration::from_secs(604_800),
        keep_audit: Duration::from_secs(7_776_000),
        advertise_addr: None,
        log_format: LogFormat::Auto,
        log_level: "info".to_owned(),
        migrate: true,
        start_timeout: None,
    }
}

#[test]
fn limits_are_enforced_at_both_ends() {
    assert!(config().validate().is_ok());
    for (seconds, ok) in [(59, false), (60, true), (31_536_000, true), (31_536_001, false)] {
        let config = ServeConfig { keep_history: Duration::from_secs(seconds), ..config() };
        assert_eq!(config.validate().is_ok(), ok, "{seconds}");
    }
    for (seconds, ok) in [(604_799, false), (604_800, true), (315_360_000, true), (315_360_001, false)] {
        let config = ServeConfig { keep_audit: Duration::from_secs(seconds), ..config() };
        assert_eq!(config.validate().is_ok(), ok, "{seconds}");
    }
    for (seconds, ok) in [(59, false), (60, true), (2_592_000, true), (2_592_001, false)] {
        let config = ServeConfig { keep_dead: Duration::from_secs(seconds), ..config() };
        assert_eq!(config.validate().is_ok(), ok, "{seconds}");
    }
    for (limit, ok) in [(0, false), (1, true), (10_000, true), (10_001, false)] {
        let config = ServeConfig { grpc_connections_per_address: limit, ..config() };
        assert_eq!(config.validate().is_ok(), ok, "{limit}");
    }
    for (records, bytes, ok) in
        [(0, 1 << 20, false), (1, 1 << 20, true), (1, (1 << 20) - 1, false), (100_000_001, 1 << 20, false)]
    {
        let config = ServeConfig { budget: Budget { records, bytes }, ..config() };
        assert_eq!(config.validate().is_ok(), ok, "{records} {bytes}");
    }
    for (addr, ok) in [("", false), ("a b", false), ("h:1", true)] {
        let config = ServeConfig { advertise_addr: Some(addr.to_owned()), ..config() };
        assert_eq!(config.validate().is_ok(), ok, "{addr:?}");
    }
    for (name, ok) in [
        ("registry.example", true),
        ("registry.example.", true),
        ("musterd", true),
        ("*.svc.cluster.local", true),
        ("*", true),
        ("", false),
        ("http://registry.example", false),
        ("registry.example:7718", false),
        ("a..b", false),
        ("*registry.example", false),
        ("a.*.example", false),
        ("größe.example", false),
    ] {
        let config = ServeConfig { http_hosts: vec![name.to_owned()], ..config() };
        assert_eq!(config.validate().is_ok(), ok, "{name:?}");
    }
    let many = ServeConfig { http_hosts: vec!["a".to_owned(); HTTP_HOSTS_MAX + 1], ..config() };
    assert_eq!(many.validate().err(), Some(ConfigError::HttpHosts(HTTP_HOSTS_MAX + 1)));
    let long = ServeConfig { advertise_addr: Some("a".repeat(254)), ..config() };
    assert_eq!(long.validate().err(), Some(ConfigError::AdvertiseAddr));
    let same = ServeConfig { http_addr: config().grpc_addr, ..config() };
    assert!(matches!(same.validate(), Err(ConfigError::SameAddress(_))));
    let filter = ServeConfig { log_level: "info,a=b=c".to_owned(), ..config() };
    assert!(matches!(filter.validate(), Err(ConfigError::LogLevel { .. })));
}

#[test]
fn admin_socket_of_each_registry_has_its_name_beside_that_of_the_daemon() {
    let tables = "name = 'a'\nschema = 'm'\ngrpc-addr = '127.0.0.1:1'\nhttp-addr = '127.0.0.1:2'\n";
    let file = file::ConfigFile::parse(Path::new("m.toml"), &format!("[[registry]]\n{tables}")).unwrap();
    let registry = registries::read(&file).unwrap().remove(0);
    let path = |admin_socket| {
        let config = ServeConfig { admin_socket, ..config() }.of_registry(&registry);
        config.admin_socket_path().map(|(path, is_asked_for)| (path.display().to_string(), is_asked_for))
    };
    assert_eq!(path(AdminSocket::default()), Some(("/var/lib/musterd/a-admin.sock".to_owned(), false)));
    assert_eq!(path(AdminSocket::At("/run/x/admin.sock".into())), Some(("/run/x/a-admin.sock".to_owned(), true)));
    assert_eq!(path(AdminSocket::None), None);
}
