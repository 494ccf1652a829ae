//! TLS to PostgreSQL: every `sslmode` against right and wrong certificates, in both directions, and the daemon over it.

use std::time::Duration;

use musterd::migrate;

use crate::{
    harness::{
        daemon::Daemon,
        postgres::BOUND,
        registry::get,
        tls::{Authority, CERTIFIED, OPEN, SCRAM, TlsPostgres},
        wait::wait_until,
    },
    main_loop::main_job,
};

/// What comes of a URL: nothing to complain of, or a complaint of one line that ends commands with this code.
async fn outcome(url: &str) -> Result<(), (String, u8)> {
    let error = match migrate::status(url).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("s3cret"), "{text}");
    Err((text, error.exit_code()))
}

async fn refused(url: &str, part: &str) {
    let Err((text, code)) = outcome(url).await else { panic!("{url} is accepted") };
    assert!(text.contains(part), "{url}: {text}");
    assert_eq!(code, 78, "{text}");
}

async fn accepted(url: &str) {
    assert_eq!(outcome(url).await, Ok(()), "{url}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_checks_of_the_server_what_libpq_does() {
    let server = TlsPostgres::start().await;
    let right = server.file("right.crt", &server.authority.pem());
    let wrong = server.file("wrong.crt", &Authority::new("another authority").pem());
    // Both in one file, as bundles of providers have it.
    let bundle = server.file("bundle.crt", &[Authority::new("another").pem(), server.authority.pem()].concat());
    let url = |host: &str, options: &str| server.url(SCRAM, host, options);

    // The user is let in through TLS only.
    refused(&url("localhost", "sslmode=disable"), "no pg_hba.conf entry").await;
    accepted(&url("127.0.0.1", "")).await;
    accepted(&url("127.0.0.1", "sslmode=prefer")).await;
    accepted(&url("127.0.0.1", "sslmode=require")).await;

    accepted(&url("127.0.0.1", &format!("sslmode=require&sslrootcert={right}"))).await;
    accepted(&url("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={right}"))).await;
    accepted(&url("localhost", &format!("sslmode=verify-full&sslrootcert={right}"))).await;
    accepted(&url("localhost", &format!("sslmode=verify-full&sslrootcert={bundle}"))).await;

    for mode in ["require", "verify-ca", "verify-full"] {
        let options = format!("sslmode={mode}&sslrootcert={wrong}");
        refused(&url("localhost", &options), &format!("no CA in {wrong} has signed the server's certificate")).await;
    }
    refused(&url("localhost", "sslmode=verify-full"), "sslrootcert: ").await;
    let by_address = url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={right}"));
    refused(&by_address, "sslmode=verify-full: the server's certificate is for ").await;
    refused(&by_address, "localhost").await;
    refused(&by_address, ", not for 127.0.0.1; connect by a name it has").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_used_only_where_the_url_puts_up_with_it() {
    let server = TlsPostgres::start().await;
    server.set("ssl", "off").await;
    let wait_plain = async || match outcome(&server.url(OPEN, "localhost", "sslmode=require")).await {
        Err((text, _)) if text.contains("does not offer TLS") => Ok(()),
        other => Err(other),
    };
    wait_until("the server has given up TLS", BOUND, wait_plain).await;
    for options in ["", "sslmode=prefer", "sslmode=disable"] {
        accepted(&server.url(OPEN, "localhost", options)).await;
    }
    let root = server.file("root.crt", &server.authority.pem());
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = server.url(OPEN, "localhost", &format!("sslmode={mode}&sslrootcert={root}"));
        refused(&url, &format!("sslmode={mode}: the server does not offer TLS; turn it on there")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_expired_self_signed_and_nameless_are_distinguished() {
    let server = TlsPostgres::start().await;
    let root = server.file("root.crt", &server.authority.pem());
    let full = server.url(SCRAM, "localhost", &format!("sslmode=verify-full&sslrootcert={root}"));
    let says = async |url: &str, part: &str| {
        wait_until(part, BOUND, async || match outcome(url).await {
            Err((text, 78)) if text.contains(part) => Ok(()),
            other => Err(other),
        })
        .await;
    };
    server.set_certificate("expired", server.authority.sign(&["localhost"], "localhost", true)).await;
    says(&full, "the server's certificate has expired at 2002-02-02T00:00:00Z; renew it there").await;
    let chain = server.url(SCRAM, "localhost", &format!("sslmode=verify-ca&sslrootcert={root}"));
    says(&chain, "sslmode=verify-ca: the server's certificate has expired").await;
    accepted(&server.url(SCRAM, "localhost", "sslmode=require")).await;

    server.set_certificate("nameless", server.authority.sign(&[], "localhost", false)).await;
    says(&full, "is for no name at all (its common name is not looked at), not for localhost").await;
    accepted(&chain).await;

    let alone = Authority::new("localhost");
    server.set_certificate("alone", (alone.pem(), alone.key_pem())).await;
    let own = server.file("alone.crt", &alone.pem());
    says(&server.url(SCRAM, "localhost", &format!("sslmode=verify-ca&sslrootcert={own}")), "is itself a CA").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_can_be_bound_to_the_channel() {
    let server = TlsPostgres::start().await;
    let root = server.file("root.crt", &server.authority.pem());
    for options in [
        "sslmode=require&channel_binding=require".to_owned(),
        format!("sslmode=verify-full&sslrootcert={root}&channel_binding=require"),
        "sslmode=require&channel_binding=disable".to_owned(),
    ] {
        accepted(&server.url(SCRAM, "localhost", &options)).await;
    }
    refused(&server.url(OPEN, "localhost", "sslmode=require&channel_binding=require"), "did not prove itself").await;
    let wrong = server.url(SCRAM, "localhost", "sslmode=require").replace("s3cret", "wrong");
    refused(&wrong, "check user and password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_our_certificate_gets_the_one_of_the_url() {
    let server = TlsPostgres::start().await;
    let (certificate, key) = server.authority.sign(&[], CERTIFIED, false);
    let (certificate, key) = (server.file("me.crt", &certificate), server.file("me.key", &key));
    let (stranger, strange_key) = Authority::new("another authority").sign(&[], CERTIFIED, false);
    let (stranger, strange_key) = (server.file("other.crt", &stranger), server.file("other.key", &strange_key));
    let url = |certificate: &str, key: &str| {
        server.url(CERTIFIED, "localhost", &format!("sslmode=require&sslcert={certificate}&sslkey={key}"))
    };
    accepted(&url(&certificate, &key)).await;
    refused(&server.url(CERTIFIED, "localhost", "sslmode=require"), "requires a valid client certificate").await;
    refused(&url(&stranger, &strange_key), &format!("the server refuses our certificate {stranger}")).await;

    refused(&url(&certificate, &strange_key), "sslkey: ").await;
    refused(&url(&certificate, &strange_key), "is not the key of the certificate").await;
    refused(&url(&key, &key), "holds no certificate in PEM form").await;
    refused(&url(&certificate, &certificate), "holds no private key in PEM form").await;
    refused(&url(&certificate, "/nonexistent/me.key"), "sslkey: cannot read /nonexistent/me.key").await;
    let encrypted =
        server.file("enc.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    refused(&url(&certificate, &encrypted), "is encrypted, which is not supported").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_handshake_needs_a_server_that_knows_it() {
    let server = TlsPostgres::start().await;
    let version: String = get(&server.admin().await, "SHOW server_version_num").await;
    let url = server.url(SCRAM, "localhost", "sslmode=require&sslnegotiation=direct");
    if version.parse::<u32>().unwrap() < 170_000 {
        refused(&url, "sslnegotiation=direct needs PostgreSQL 17 or later").await;
    } else {
        accepted(&url).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_does_its_work_over_verified_tls_on_every_connection() {
    let server = TlsPostgres::start().await;
    let root = server.file("root.crt", &server.authority.pem());
    let url = server.url(SCRAM, "localhost", &format!("sslmode=verify-full&sslrootcert={root}"));
    let daemon = Daemon::start(&url).await;
    main_job(&daemon).await;
    let admin = server.admin().await;
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'scram'";
    let encrypted =
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'scram' AND ssl";
    wait_until("the feed and the pool are connected, encrypted", Duration::from_secs(20), async || {
        let counts = (get::<i64>(&admin, connections).await, get::<i64>(&admin, encrypted).await);
        if counts.0 >= 2 && counts.0 == counts.1 { Ok(()) } else { Err(counts) }
    })
    .await;
    let log = daemon.log();
    assert!(!log.contains("s3cret") && !log.contains("insecure database connection"), "{log}");
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_replaced_on_disk_counts_from_the_next_connection_on() {
    let server = TlsPostgres::start().await;
    let root = server.file("root.crt", &server.authority.pem());
    let url = server.url(SCRAM, "localhost", &format!("sslmode=verify-full&sslrootcert={root}"));
    let daemon = Daemon::start(&url).await;
    let admin = server.admin().await;
    let hang_up = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'scram'";

    server.file("root.crt", &Authority::new("another authority").pem());
    get::<i64>(&admin, hang_up).await;
    wait_until("the feed refuses the server", BOUND, async || {
        let log = daemon.log();
        if log.contains("has signed the server's certificate; give the CA") { Ok(()) } else { Err(log) }
    })
    .await;
    server.file("root.crt", &server.authority.pem());
    wait_until("the feed is connected again", BOUND, async || {
        let log = daemon.log();
        if log.matches("loaded the registry").count() > 1 { Ok(()) } else { Err(log) }
    })
    .await;
    main_job(&daemon).await;
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_warns_of_encryption_without_verification() {
    let server = TlsPostgres::start().await;
    let daemon = Daemon::start(&server.url(SCRAM, "localhost", "sslmode=require")).await;
    let log = daemon.log();
    let warning = log.lines().find(|line| line.contains("insecure database connection")).unwrap();
    assert!(warning.contains("\"WARN\"") && warning.contains("use sslmode=verify-full"), "{warning}");
    assert!(daemon.terminate().await.success());
}
