//! `musterd check`: a doctor. Looks at everything between here and the database, and names the fix of what is wrong.
//!
//! Outside in: the address, what is spoken there, what the daemon says of the registry, its HTTP port, and with
//! `--database-url` the database itself. Each of these works without the others, because a doctor is called when
//! something does not: a daemon that says nothing over gRPC may still tell over HTTP what it waits for.
//!
//! What each of them finds is the concern of the room `check`; here are the flags, and the order of things.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use musterd_client::{Address, Client, Cluster};
use tokio::time::timeout;

use super::{
    database::DatabaseArgs,
    healthcheck,
    serve::{ServeArgs, parse_socket_addr},
};
use crate::{
    check::{
        self,
        cluster::{self, Here},
        credentials, database,
        finding::{Finding, worst},
        http::{self, Wire},
        reach,
    },
    clock::Clock,
    command::{
        client::ClientArgs,
        exit::{self, Error},
    },
    config::{RegistryConfig, Source, layered::Layered},
    daemon::share::share,
    migrate::{self, Place},
    status::Severity,
    store::{examine, surroundings},
    terminal::{
        output::{self, DocumentArgs},
        words::millis,
    },
};

/// Where a daemon serves HTTP unless it says or was told otherwise.
const HTTP_PORT: u16 = 7718;
/// How long the database may take to be compared with the schema.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) const HELP: &str = "\
Exits with 1 if a finding is critical; a warning does not change the exit code.

Examples:
  musterd check
  musterd check --addr db-7:7717
  # Also the database itself: version, schema, settings, clock, connections
  musterd check --database-url postgres://reader:secret@db/registry";

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// With a database, it is looked at as well
    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    /// Address of the daemon's metrics and health [default: as the daemon says, on the host of --addr]
    #[arg(long, env = "MUSTERD_HTTP_ADDR", value_name = "ADDR", value_parser = parse_socket_addr)]
    http_addr: Option<SocketAddr>,

    #[command(flatten)]
    output: DocumentArgs,
}

pub(super) async fn run(mut args: CheckArgs, client: &ClientArgs) -> Result<u8, Error> {
    let url = super::database::resolve::<_, ServeArgs>(&mut args.database)?;
    let shown = credentials::Files {
        token: client.token_file.as_deref(),
        certificate: client.cert.as_deref(),
        key: client.key_file(),
    };
    let mut findings = credentials::files(shown, Clock::new().wall());
    let reached = reached(client, &mut findings).await;
    let cluster = match &reached {
        Some(address) => {
            let cluster = daemon(client, address, &mut findings).await;
            findings.extend(identity(client, address).await);
            cluster
        }
        None => None,
    };
    if let Some(address) = reached.as_ref().or(client.addr.first()) {
        findings.extend(probe(&args, client, address, cluster.as_ref()).await);
    }
    let registries = args.database.take_registries();
    findings.extend(match url.map(|source| source.current()) {
        Some(url) => {
            let (place, connections, others) = (url.expose().into(), database::PER_DAEMON, Vec::new());
            let history = cluster.as_ref().map(|cluster| cluster.history_id.as_str());
            look_at_database(&Known { place, connections, history, others }).await
        }
        None => look_at_registries(&registries, reached.as_ref().zip(cluster.as_ref())).await,
    });
    let failures = findings.iter().filter(|finding| finding.severity == Severity::Critical).count();
    let text = output::answer_list(
        args.output.output,
        || {
            let all: Vec<_> = findings.iter().map(Finding::json).collect();
            serde_json::json!({ "severity": worst(&findings).as_str(), "findings": all })
        },
        || findings.iter().map(Finding::json).collect(),
        Vec::new,
        || findings.iter().map(Finding::lines).collect(),
    )?;
    output::print_text(&text)?;
    if worst(&findings) == Severity::Critical {
        let checks = if failures == 1 { "1 check fails" } else { &format!("{failures} checks fail") };
        output::note(checks);
        return Ok(exit::NEGATIVE);
    }
    Ok(exit::OK)
}

/// What the daemon says.
async fn daemon(client: &ClientArgs, address: &Address, findings: &mut Vec<Finding>) -> Option<Cluster> {
    let began = Instant::now();
    match ask(client, address).await {
        Ok((cluster, round_trip)) => {
            let here = Here { now: Clock::new().wall() - began.elapsed() / 2, round_trip, host: address.host().into() };
            findings.push(Finding::ok("answer", format!("{address} answers GetCluster in {}", millis(round_trip))));
            findings.extend(cluster::judge(&cluster, &here));
            Some(cluster)
        }
        Err(error) => {
            let fix = match error.reason() {
                Some("NOT_YET_SEEN") => {
                    "wait: the daemon has not loaded the registry yet; its log says what it waits for"
                }
                _ => "look at the log of the daemon",
            };
            findings.push(Finding::fail("answer", error.lines().join(" "), fix));
            None
        }
    }
}

/// As which identity the daemon knows the caller.
async fn identity(client: &ClientArgs, address: &Address) -> Vec<Finding> {
    let asked = async { Ok::<_, Error>(client.at(address.clone()).connect().await?.who_am_i().await?) };
    match asked.await {
        Ok(known) => credentials::identity(&known, Clock::new().wall()),
        Err(error) if error.exit_code() == exit::REFUSED => {
            let fix = "give --token-file, or --cert and --cert-key; musterd token create makes a token";
            vec![Finding::fail("identity", error.lines().join(" "), fix)]
        }
        // What else is wrong the next finding tells; an older daemon has no such method.
        Err(_) => Vec::new(),
    }
}

/// Looks at each address; returns the first one at which a daemon is. Of several, one is enough: the others are warnings.
async fn reached(client: &ClientArgs, findings: &mut Vec<Finding>) -> Option<Address> {
    let mut found = None;
    let mut looks = Vec::new();
    let tls = client.tls();
    for addr in client.addr.iter() {
        let (look, is_daemon) = reach::look(addr, &tls, client.timeout).await;
        looks.push((look, is_daemon));
        if is_daemon && found.is_none() {
            found = Some(addr.clone());
        }
    }
    for (look, is_daemon) in looks {
        let is_spare = found.is_some() && !is_daemon;
        findings.extend(look.into_iter().map(|finding| if is_spare { finding.at_most_a_warning() } else { finding }));
    }
    found
}

async fn ask(args: &ClientArgs, address: &Address) -> Result<(Cluster, Duration), Error> {
    let one = ClientArgs { wait: args.wait, ..args.at(address.clone()) };
    let client: Client = one.connect().await?;
    let began = Instant::now();
    let cluster = client.cluster(0).await?;
    Ok((cluster, began.elapsed()))
}

/// What the HTTP port says, where it can be found.
async fn probe(args: &CheckArgs, client: &ClientArgs, address: &Address, cluster: Option<&Cluster>) -> Vec<Finding> {
    let host = address.host();
    let told = cluster.and_then(|cluster| cluster.health.as_ref()?.http_address.parse::<SocketAddr>().ok());
    let authority = match (args.http_addr, told) {
        (Some(given), _) => http::reachable(given).to_string(),
        (None, Some(told)) => format!("{host}:{}", told.port()),
        (None, None) => format!("{host}:{HTTP_PORT}"),
    };
    let is_asked_for = args.http_addr.is_some();
    let tls = client.tls();
    let wire = if address.is_encrypted() { Wire::Tls(&tls) } else { Wire::Plain };
    let answer = http::dated(&authority, "/readyz", client.timeout, wire).await;
    let date = answer.as_ref().ok().and_then(|answer| answer.date);
    let clock = date.map(|date| credentials::clock(date, Clock::new().wall()));
    let found = match answer.map(|answer| (answer.status, answer.text)) {
        Ok((200, _)) => Finding::ok("http", format!("{authority} says it is ready")),
        Ok((503, body)) => {
            let found = format!("{authority} is not ready: {}", healthcheck::missing(&body));
            let fix = "if the daemon is starting, wait; if not, its log says what it waits for";
            Finding::fail("http", found, fix)
        }
        // A port of another program: a guess proves nothing.
        Ok(_) | Err(_) if !is_asked_for && told.is_none() => return Vec::new(),
        Ok((421, _)) => {
            let fix = "start the daemon with --http-host NAME (MUSTERD_HTTP_HOST), or use its IP address";
            Finding::fail("http", format!("{authority} does not answer under this name (status 421)"), fix)
        }
        Ok((status, _)) => {
            let fix = "check --http-addr: metrics and health of the daemon, port 7718 unless it was told another";
            Finding::fail("http", format!("{authority} answers {status} for /readyz"), fix)
        }
        Err(_) if !is_asked_for && told.is_some_and(|told| told.ip().is_loopback()) => {
            let own = told.map(|told| told.to_string()).unwrap_or_default();
            Finding::ok("http", format!("{own} is for its own machine only"))
        }
        Err(error) => {
            let fix = "probes and Prometheus fail like this: see --http-addr of the daemon, and the firewall";
            Finding::warn("http", format!("{authority} does not answer: {error}"), fix)
        }
    };
    std::iter::once(found).chain(clock).collect()
}

/// A registry in a database, and what is known about it.
struct Known<'a> {
    place: Place<'a>,
    /// The connections that its daemon may hold to the server.
    connections: u64,
    /// The history that the daemon says it holds.
    history: Option<&'a str>,
    /// Schemas of the same database that hold other registries of the daemon.
    others: Vec<&'a str>,
}

/// Looks at the databases of several registries of a daemon, which share one budget of connections.
async fn look_at_registries(registries: &[RegistryConfig], reached: Option<(&Address, &Cluster)>) -> Vec<Finding> {
    let each = share(registries.len());
    let mut findings = Vec::new();
    for registry in registries {
        let Some(url) = registry.database_url.as_ref().map(Source::current) else { continue };
        let here = registries.iter().filter(|other| other.server() == registry.server()).count();
        let others = registries.iter().filter(|other| other.database() == registry.database());
        let is_reached = |address: &Address| {
            let ip = address.host().trim_matches(['[', ']']).parse::<IpAddr>();
            ip.is_ok_and(|ip| registry.is_at(SocketAddr::new(ip, address.port())))
        };
        let known = Known {
            place: Place { url: url.expose(), schema: Some(&registry.schema) },
            connections: u64::try_from(each * here).unwrap_or(u64::MAX),
            history: reached.filter(|(address, _)| is_reached(address)).map(|(_, one)| one.history_id.as_str()),
            others: others.map(|other| other.schema.as_str()).collect(),
        };
        let found = look_at_database(&known).await.into_iter();
        findings.extend(found.map(|finding| database::of_registry(finding, &registry.name)));
    }
    findings
}

async fn look_at_database(known: &Known<'_>) -> Vec<Finding> {
    let place = known.place;
    let mut seen = match examine::examine(place.url, place.schema).await {
        Ok(seen) => seen,
        Err(error) => return vec![database::unreachable(&error, known.connections)],
    };
    if let Some(schema) = place.schema {
        if seen.schema != schema {
            return database::without_schema(&seen, known.connections, schema);
        }
        // A role has one path, which leads to one registry of several at most: SQL callers of the others set it themselves.
        seen.inherited.retain(|setting| setting.name != "search_path");
    }
    let mut findings = database::judge(&seen, known.history, known.connections);
    if let Ok(mut around) = surroundings::surroundings(place.url, place.schema).await {
        let rights = migrate::rights(place).await.unwrap_or_default();
        // Where a schema is named, no other registry can be taken for it.
        let registries = match place.schema {
            None => migrate::registries(place.url).await.unwrap_or_default(),
            Some(_) => Vec::new(),
        };
        around.enums.retain(|schema| !known.others.contains(&schema.as_str()));
        findings.extend(check::surroundings::judge(&around, &registries, &seen.schema, &rights));
    }
    findings.extend(match timeout(VERIFY_TIMEOUT, migrate::verify(place)).await {
        Ok(Ok(differences)) => database::schema(&differences),
        Ok(Err(error)) => {
            vec![Finding::fail("schema", error.to_string(), "see that the user may read the catalogue")]
        }
        Err(_) => {
            let found = format!("could not be compared within {}", humantime::format_duration(VERIFY_TIMEOUT));
            vec![Finding::fail("schema", found, "see which sessions hold locks on the tables of the registry")]
        }
    });
    findings
}
