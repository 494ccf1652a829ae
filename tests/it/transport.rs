//! Certificates that only carry the calls of others, such as those of a mesh or a proxy.

use std::{fs, time::Duration};

use musterd_client::{Choice, Client, Kind, Tls, Token};

use crate::{
    cli::musterd,
    harness::{daemon::DAEMON_BOUND, secured::Secured, wait::wait_until},
};

const RULES: &str = "[[rule]]\nwho = [\"token/reader\"]\nmay = [\"read\"]\non = [\"svc-a\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn certificate_of_transport_has_no_rights_and_lets_the_token_speak() {
    let secured = Secured::enforced(RULES, &["reader"]).await;
    let made = musterd(&["cert", "client", &secured.path(""), "mesh"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let tls = Tls::new().ca(secured.path("ca.pem")).identity(secured.path("mesh.pem"), secured.path("mesh.key"));
    let client = |token: Token| {
        let builder = Client::builder().daemons([secured.address()]).tls(tls.clone()).token(token);
        builder.retry_for(Duration::ZERO).build().unwrap()
    };
    let both = client(Token::file(secured.path("reader.token")));
    assert_eq!(both.who_am_i().await.unwrap_err().reason().name(), "TWO_IDENTITIES");
    let path = secured.path("policy.toml");
    fs::write(&path, format!("transport = [\"cert/mesh\"]\n{}", fs::read_to_string(&path).unwrap())).unwrap();
    wait_until("the token speaks", DAEMON_BOUND, async || match both.who_am_i().await {
        Ok(known) if known.identity == "token/reader" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(both.resolve("svc-b", &Choice::default()).await.is_err(), "the rights are those of the token");
    let error = client(Token::default()).who_am_i().await.unwrap_err();
    assert_eq!((error.kind(), error.reason().name()), (Kind::Unauthenticated, "UNAUTHENTICATED"), "{error}");
    assert!(error.message().contains("cert/mesh is one of transport"), "{error}");
}
