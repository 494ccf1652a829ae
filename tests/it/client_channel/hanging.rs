//! Instances that accept connections and say nothing, or cannot be reached at all.

use std::{net::SocketAddr, time::Duration};

use musterd_client::{ChannelSettings, Choice, MusterChannel, Router, RouterSettings};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::timeout,
};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{BOUND, Greeter, LOCAL, NAME, Place, connected, greet, hanging, numbered};
use crate::harness::wait::wait_until;

/// An address at which packets that ask for a connection are dropped, as by a firewall: nothing accepts, and the backlog is full.
async fn unreachable() -> (Vec<TcpStream>, TcpListener, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((LOCAL, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        kept.push(stream.unwrap());
    }
    (kept, listener, address)
}

#[tokio::test]
async fn instances_that_hang_or_cannot_be_reached_get_no_call() {
    let (mut place, greeter) = (Place::new().await, Greeter::start());
    let ((_hanging, hanging), (_full, _listener, unreachable)) = (hanging().await, unreachable().await);
    for address in [hanging, unreachable, greeter.address] {
        place.register(address).await;
    }
    let channel = place.channel();
    for _ in 0..300 {
        greet(channel.clone()).await.unwrap();
    }
    assert_eq!(channel.connected(), 1);
    drop(greeter);
    let mut settings = ChannelSettings::default();
    settings.wait = Duration::from_secs(4);
    let refused = greet(MusterChannel::with(&place.router(), NAME, settings)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("was not made: "), "it tells why: {refused:?}");
}

/// A link to a server that can be cut: connections stay, new ones are accepted, and nothing comes through.
struct Link {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
}

impl Link {
    async fn to(server: SocketAddr) -> Self {
        let (listener, address) = hanging().await;
        let (is_open, state) = watch::channel(true);
        drop(tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let there = TcpStream::connect(server).await.unwrap();
                let ((mut from_here, mut to_here), (mut from_there, mut to_there)) =
                    (here.into_split(), there.into_split());
                let (mut forth, mut back) = (state.clone(), state.clone());
                drop(tokio::spawn(async move { carry(&mut from_here, &mut to_there, &mut forth).await }));
                drop(tokio::spawn(async move { carry(&mut from_there, &mut to_here, &mut back).await }));
            }
        }));
        Self { address, is_open }
    }
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    is_open: &mut watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if is_open.wait_for(|is_open| *is_open).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_that_begins_to_hang_fails_calls_until_its_connection_is_tested_and_then_none() {
    let (mut place, greeters) = (Place::new().await, [Greeter::start(), Greeter::start()]);
    let link = Link::to(greeters[0].address).await;
    for address in [link.address, greeters[1].address] {
        place.register(address).await;
    }
    let channel = place.channel();
    connected(&channel, 2).await;
    link.is_open.send_replace(false);
    let mut failed = 0;
    wait_until("its connection has broken", BOUND, async || {
        if let Err(status) = numbered(channel.clone(), 0, Duration::from_millis(200)).await {
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable), "{status:?}");
            failed += 1;
        }
        if channel.connected() == 1 { Ok(()) } else { Err(failed) }
    })
    .await;
    assert!(failed > 0, "a call has met the instance that hangs");
    // Attempts to connect to it again are accepted, and get no answer.
    for _ in 0..200 {
        greet(channel.clone()).await.unwrap();
    }
    assert_eq!(channel.connected(), 1);
    link.is_open.send_replace(true);
    connected(&channel, 2).await;
}

#[tokio::test]
async fn call_of_a_router_to_an_instance_that_hangs_goes_on_to_another() {
    let (mut place, greeter) = (Place::new().await, Greeter::start());
    let (_hanging, hanging) = hanging().await;
    for address in [hanging, greeter.address] {
        place.register(address).await;
    }
    let mut settings = RouterSettings::default();
    settings.exclude_for = Duration::from_secs(600);
    let router = Router::with(&place.client, settings);
    wait_until("both are known", BOUND, async || {
        let known = router.instances(NAME).len();
        if known == 2 { Ok(()) } else { Err(known) }
    })
    .await;
    let (mut called, best) = (Vec::new(), Choice::best());
    let answer = router.call(
        NAME,
        &best,
        2,
        |_| true,
        |target| {
            let address = target.instance().address().unwrap();
            called.push(address);
            async move {
                let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
                let limit = if address == hanging { Duration::from_millis(300) } else { BOUND };
                let call = async {
                    let mut health = HealthClient::new(endpoint.connect().await.map_err(|error| error.to_string())?);
                    health.check(HealthCheckRequest::default()).await.map(drop).map_err(|status| status.to_string())
                };
                timeout(limit, call).await.unwrap_or_else(|_| Err("no answer".to_owned()))
            }
        },
    );
    assert_eq!(answer.await.unwrap(), Ok(()));
    assert_eq!(called, [hanging, greeter.address]);
    // It is left out from now on.
    assert_eq!(router.pick(NAME, &Choice::best()).unwrap().instance().address(), Some(greeter.address));
}
