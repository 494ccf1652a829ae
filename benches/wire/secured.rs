//! What protection costs: the same calls in plain text, with TLS, with a client certificate, with a static token and with a
//! JSON web token, in rounds that follow each other. Each kind has a daemon of its own on the same database.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::{
    Sizes, flags, measure_unary, number,
    table::{Goal, Table},
    world::World,
};

/// How long the JSON web token lives: longer than a run.
const LIFE_SECONDS: u64 = 6 * 60 * 60;

/// What a client shows, and the flags for it.
struct Way {
    name: &'static str,
    addr: String,
    flags: Vec<String>,
}

/// Files of the daemons, and the flags that name them.
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(crate) fn make(world: &World, name: &str) -> Self {
        let directory = world.directory().join(name);
        world.run(&["security", "init", path(&directory)]);
        let files = Self { directory };
        let policy = files.at("policy.toml");
        let rule = "[[issuer]]\nissuer = \"https://issuer.example\"\naudience = \"musterd\"\njwks = \"jwks.json\"\n\
                    identity = \"k8s/{namespace}/{account}\"\n\n[[rule]]\nwho = [\"k8s/bench/a\"]\n\
                    may = [\"register\", \"beat\", \"resolve\", \"read\", \"operate\", \"cluster\", \"metrics\"]\non = [\"*\"]\n";
        // One identity is a whole fleet here.
        let limits = "limits = { records = 1000000, registrations = \"100000/s\", connections = 20000 }\n";
        let operators =
            fs::read_to_string(&policy).unwrap().replacen("on  = [\"*\"]\n", &format!("on  = [\"*\"]\n{limits}"), 1);
        assert!(operators.contains(limits), "{operators}");
        fs::write(&policy, format!("{operators}\n{rule}{limits}")).unwrap();
        let (keys, token) = issue();
        fs::write(files.at("jwks.json"), keys.to_string()).unwrap();
        fs::write(files.at("bench.jwt"), token).unwrap();
        files
    }

    pub(crate) fn directory(&self) -> String {
        path(&self.directory).to_owned()
    }

    pub(crate) fn at(&self, name: &str) -> String {
        path(&self.directory.join(name)).to_owned()
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A key set and a token that is signed with its key.
fn issue() -> (Value, String) {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    let point = key.public_key().as_ref();
    let jwk =
        json!({ "kty": "EC", "crv": "P-256", "kid": "bench", "x": encode(&point[1..33]), "y": encode(&point[33..]) });
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + LIFE_SECONDS;
    // As long as a token of Kubernetes.
    let claims = json!({
        "iss": "https://issuer.example", "aud": ["musterd"], "sub": "bench", "exp": expires, "namespace": "bench",
        "account": "a", "more": "x".repeat(400),
    });
    let header = json!({ "alg": "ES256", "kid": "bench" });
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    (json!({ "keys": [jwk] }), format!("{signed}.{}", encode(signature.as_ref())))
}

/// Starts a daemon for each way.
fn ways(world: &mut World, files: &Files) -> Vec<Way> {
    let (certificate, key) = (files.at("server.pem"), files.at("server.key"));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    let enforced = ["--security-dir", path(&files.directory)];
    let mut way = |name, daemon: &[&str], client: &[&str]| {
        let addr = world.add_daemon(daemon);
        let addr = if daemon.is_empty() { addr } else { format!("https://{addr}") };
        let flags = client.iter().map(|flag| (*flag).to_owned()).collect();
        Way { name, addr, flags }
    };
    let (ca, operator, operator_key) = (files.at("ca.pem"), files.at("operator.pem"), files.at("operator.key"));
    let (token, jwt) = (files.at("operator.token"), files.at("bench.jwt"));
    vec![
        way("plain", &[], &[]),
        way("tls", &tls, &["--ca", &ca]),
        way("mtls", &enforced, &["--ca", &ca, "--cert", &operator, "--cert-key", &operator_key]),
        way("token", &enforced, &["--ca", &ca, "--token-file", &token]),
        way("jwt", &enforced, &["--ca", &ca, "--token-file", &jwt]),
    ]
}

pub(crate) async fn measure(world: &mut World, sizes: Sizes, table: &mut Table) {
    let files = Files::make(world, "security");
    let ways = ways(world, &files);
    for way in &ways {
        let client: Vec<&str> = way.flags.iter().map(String::as_str).collect();
        world.wait_for(&way.addr, &client).await;
    }
    let connections = env::var("MUSTERD_WIRE_CONNECTIONS").unwrap_or_else(|_| "4".to_owned());
    let (seconds, leases) = (format!("{}s", sizes.seconds), sizes.leases.to_string());
    for round in 1..=sizes.rounds {
        println!("round {round} of {}", sizes.rounds);
        for way in &ways {
            let client: Vec<&str> = way.flags.iter().map(String::as_str).collect();
            let unary = ["--connections", &connections, "--in-flight", "16", "--instances", "200"];
            for bench in ["resolve", "beat"] {
                let flags = [flags(bench, &seconds, &unary), client.clone()].concat();
                measure_unary(world, &way.addr, &flags, &format!("{bench} {}", way.name), table).await;
            }
            let streams = ["--connections", "2", "--in-flight", "2", "--batch", "10000", "--instances", &leases];
            let report =
                world.bench(&way.addr, &[flags("beat-stream", &seconds, &streams), client.clone()].concat()).await;
            table.add(&format!("beat-stream {}", way.name), number(&report, "itemsPerSecond"));
        }
    }
}

/// The rates have in them what protection costs the client, which shares the machine; the processor times do not.
pub(crate) fn goals() -> Vec<Goal> {
    vec![
        Goal::ratio("Resolve with TLS", "resolve tls", ("plain", "resolve plain"), 0.90),
        Goal::ratio("- processor time, us", "resolve plain cpu us", ("TLS", "resolve tls cpu us"), 0.90),
        Goal::ratio("Resolve with mutual TLS", "resolve mtls", ("plain", "resolve plain"), 0.85),
        Goal::ratio("- processor time, us", "resolve plain cpu us", ("mTLS", "resolve mtls cpu us"), 0.85),
        Goal::ratio("Resolve with a static token", "resolve token", ("mTLS", "resolve mtls"), 0.95),
        Goal::ratio("- processor time, us", "resolve mtls cpu us", ("token", "resolve token cpu us"), 0.95),
        Goal::ratio("Resolve with a JSON web token", "resolve jwt", ("mTLS", "resolve mtls"), 0.90),
        Goal::ratio("- processor time, us", "resolve mtls cpu us", ("JWT", "resolve jwt cpu us"), 0.90),
        Goal::ratio("Beat with TLS", "beat tls", ("plain", "beat plain"), 0.90),
        Goal::ratio("- processor time, us", "beat plain cpu us", ("TLS", "beat tls cpu us"), 0.90),
        Goal::ratio("Beat with mutual TLS", "beat mtls", ("plain", "beat plain"), 0.85),
        Goal::ratio("- processor time, us", "beat plain cpu us", ("mTLS", "beat mtls cpu us"), 0.85),
        Goal::ratio("Beat with a static token", "beat token", ("mTLS", "beat mtls"), 0.95),
        Goal::ratio("- processor time, us", "beat mtls cpu us", ("token", "beat token cpu us"), 0.95),
        Goal::ratio("Beat with a JSON web token", "beat jwt", ("mTLS", "beat mtls"), 0.90),
        Goal::ratio("- processor time, us", "beat mtls cpu us", ("JWT", "beat jwt cpu us"), 0.90),
        Goal::ratio("BeatStream with mutual TLS", "beat-stream mtls", ("plain", "beat-stream plain"), 0.90),
        Goal::ratio("BeatStream with a static token", "beat-stream token", ("plain", "beat-stream plain"), 0.90),
        Goal::ratio("BeatStream with a JSON web token", "beat-stream jwt", ("plain", "beat-stream plain"), 0.90),
    ]
}
