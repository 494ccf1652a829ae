//! Instances that are called with TLS.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use musterd_client::{ChannelSettings, InstanceTls, MusterChannel, Tls};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{io::copy_bidirectional, net::TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{BOUND, Greeter, NAME, Place, greet, hanging};
use crate::harness::{scratch::Scratch, tls::Authority};

/// Puts TLS in front of a server, which asks for a certificate of this authority.
async fn encrypted(server: SocketAddr, authority: &Authority, names: &[&str]) -> SocketAddr {
    let (certificate, key) = authority.sign(names, "greeter", false);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (acceptor, (listener, address)) = (TlsAcceptor::from(Arc::new(config)), hanging().await);
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            drop(tokio::spawn(async move {
                let Ok(mut here) = acceptor.accept(stream).await else { return };
                let mut there = TcpStream::connect(server).await.unwrap();
                let _ = copy_bidirectional(&mut here, &mut there).await;
            }));
        }
    }));
    address
}

#[tokio::test]
async fn instances_with_tls_are_called_with_the_ca_and_the_certificate_that_are_given() {
    let (mut place, greeter, files) = (Place::new().await, Greeter::start(), Scratch::in_memory());
    let authority = Authority::new("the CA of the application");
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = authority.sign(&["caller"], "caller", false);
    let (ca, identity) = (write("ca.pem", &authority.pem()), write("caller.pem", &format!("{certificate}{key}")));
    let foreign = write("foreign.pem", &Authority::new("another CA").pem());
    let tls = |ca: &Path| Tls::new().ca(ca).identity(&identity, &identity);
    let mut settings = ChannelSettings::default();
    settings.wait = Duration::from_secs(10);
    let router = place.router();
    let with = |tls| MusterChannel::with_tls(&router, NAME, settings, tls);

    // A certificate for the address of the instance.
    place.register(encrypted(greeter.address, &authority, &["127.0.0.1"]).await).await;
    greet(with(InstanceTls::new(tls(&ca)))).await.unwrap();
    settings.wait = Duration::from_secs(3);
    let with = |tls| MusterChannel::with_tls(&router, NAME, settings, tls);
    for (wrong, why) in [
        (InstanceTls::new(tls(&foreign)), "no CA in "),
        (InstanceTls::new(tls(&ca)).server_name("greeter.internal"), "greeter.internal"),
        (InstanceTls::new(Tls::new().ca(&ca)), "certificate"),
    ] {
        let refused = greet(with(wrong)).await.unwrap_err();
        assert!(refused.message().contains(why), "it tells why: {refused:?}");
    }
    place.kept.pop().unwrap().close(Duration::ZERO).await.unwrap();

    // One for a name that all instances share.
    place.register(encrypted(greeter.address, &authority, &["greeter.internal"]).await).await;
    settings.wait = BOUND;
    let with = |tls| MusterChannel::with_tls(&router, NAME, settings, tls);
    greet(with(InstanceTls::new(tls(&ca)).server_name("greeter.internal"))).await.unwrap();
}
