//! An issuer of JSON web tokens: keys to sign with, and an HTTPS server with the public ones, which can be made to fail.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::Utc;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{scratch::Scratch, tls::Authority};

/// What the server wants to see of the daemon, and what must be in no text of it.
pub(crate) const BEARER: &str = "planted-bearer-of-the-daemon";

/// A key of the issuer.
pub(crate) struct Signer {
    kid: &'static str,
    key: EcdsaKeyPair,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(crate) fn new(kid: &'static str) -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self { kid, key: EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap() }
    }

    fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "x": encode(&point[1..33]), "y": encode(&point[33..]) })
    }

    /// A token with these claims, and with `more` in its header.
    pub(crate) fn sign(&self, claims: &Value, more: &Value) -> String {
        let mut header = json!({ "alg": "ES256", "kid": self.kid });
        for (name, value) in more.as_object().unwrap() {
            header[name] = value.clone();
        }
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature))
    }
}

/// How the server answers.
#[derive(Clone, Debug)]
enum Answer {
    Keys(String),
    Refuse,
    Slow,
}

/// The server, until dropped.
pub(crate) struct Issuer {
    port: u16,
    answer: Arc<Mutex<Answer>>,
    /// The heads of the requests.
    heads: Arc<Mutex<Vec<String>>>,
    files: Scratch,
    server: tokio::task::JoinHandle<()>,
}

impl Issuer {
    /// One that has these keys.
    pub(crate) async fn start(keys: &[&Signer]) -> Self {
        let (authority, files) = (Authority::new("the CA of the issuer"), Scratch::in_memory());
        fs::write(files.path().join("issuer-ca.pem"), authority.pem()).unwrap();
        fs::write(files.path().join("bearer"), format!("{BEARER}\n")).unwrap();
        let (certificate, key) = authority.sign(&["127.0.0.1"], "issuer", false);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, heads) = (Arc::new(Mutex::new(Answer::Keys(set(keys)))), Arc::default());
        let server = tokio::spawn(serve(listener, config, Arc::clone(&answer), Arc::clone(&heads)));
        Self { port, answer, heads, files, server }
    }

    /// Its name, which is also the address of its configuration.
    pub(crate) fn name(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The table of the policy for it. Without `jwks` its configuration says where the keys are.
    pub(crate) fn table(&self, with_jwks: bool) -> String {
        let path = |name: &str| self.files.path().join(name).to_str().unwrap().to_owned();
        let jwks = if with_jwks { format!("jwks = \"{}/keys\"\n", self.name()) } else { String::new() };
        format!(
            "[[issuer]]\nissuer = \"{}\"\naudience = \"musterd\"\n{jwks}ca = {:?}\nbearer_file = {:?}\n\
             identity = \"k8s/{{kubernetes.io.namespace}}/{{kubernetes.io.serviceaccount.name}}\"\n",
            self.name(),
            path("issuer-ca.pem"),
            path("bearer"),
        )
    }

    /// Has these keys from now on.
    pub(crate) fn set_keys(&self, keys: &[&Signer]) {
        *self.answer.lock().unwrap() = Answer::Keys(set(keys));
    }

    /// Answers with this from now on.
    pub(crate) fn set_garbage(&self, text: &str) {
        *self.answer.lock().unwrap() = Answer::Keys(text.to_owned());
    }

    /// Ends every connection at once from now on.
    pub(crate) fn refuse(&self) {
        *self.answer.lock().unwrap() = Answer::Refuse;
    }

    /// Takes requests and does not answer from now on.
    pub(crate) fn stall(&self) {
        *self.answer.lock().unwrap() = Answer::Slow;
    }

    /// The requests that have come.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The claims of a service account, for a token that is accepted for this long.
    pub(crate) fn claims(&self, account: &str, seconds: i64) -> Value {
        // The daemon allows for clocks that differ by 30 s.
        let expires = Utc::now().timestamp() + seconds - 30;
        json!({
            "iss": self.name(), "aud": ["musterd"], "sub": format!("system:serviceaccount:organs:{account}"),
            "exp": expires, "kubernetes.io": { "namespace": "organs", "serviceaccount": { "name": account } },
        })
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn set(keys: &[&Signer]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    answer: Arc<Mutex<Answer>>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let port = listener.local_addr().unwrap().port();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, answer, heads) = (acceptor.clone(), Arc::clone(&answer), Arc::clone(&heads));
        tokio::spawn(async move { connection(stream, acceptor, port, &answer, &heads).await });
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    port: u16,
    answer: &Mutex<Answer>,
    heads: &Mutex<Vec<String>>,
) -> Option<()> {
    let now = answer.lock().unwrap().clone();
    if matches!(now, Answer::Refuse) {
        return None;
    }
    let mut stream = acceptor.accept(stream).await.ok()?;
    let (mut head, mut part) = (Vec::new(), [0; 4_096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        head.extend_from_slice(&part[..read]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    heads.lock().unwrap().push(head.clone());
    let Answer::Keys(keys) = now else {
        // Until the client gives up.
        let _ = stream.read(&mut part).await;
        return None;
    };
    let (status, body) = if !head.contains(&format!("authorization: Bearer {BEARER}\r\n")) {
        ("401 Unauthorized", String::new())
    } else if head.starts_with("GET /keys ") {
        ("200 OK", keys)
    } else if head.starts_with("GET /.well-known/openid-configuration ") {
        let name = format!("https://127.0.0.1:{port}");
        ("200 OK", json!({ "issuer": name, "jwks_uri": format!("{name}/keys"), "more": 1 }).to_string())
    } else {
        ("404 Not Found", String::new())
    };
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
