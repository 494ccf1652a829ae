//! The links, between a client and an echo.
#![cfg(test)]

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Counts, Link, Mode, Upstream, postgres::Messages};
use crate::harness::{
    postgres::{TestDatabase, connect},
    registry::get,
};

const BRIEFLY: Duration = Duration::from_millis(200);

async fn echo() -> Link {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    Link::to(Upstream::Tcp(addr)).await
}

async fn says(stream: &mut TcpStream, text: &str) -> Option<String> {
    let mut answer = vec![0; text.len()];
    stream.write_all(text.as_bytes()).await.ok()?;
    timeout(BRIEFLY, stream.read_exact(&mut answer)).await.ok()?.ok()?;
    String::from_utf8(answer).ok()
}

#[tokio::test]
async fn black_hole_delivers_once_it_ends() {
    let link = echo().await;
    let mut stream = TcpStream::connect(&link.addr).await.unwrap();
    assert_eq!(says(&mut stream, "one").await.as_deref(), Some("one"));
    for (from_client, from_server) in [(true, false), (false, true), (true, true)] {
        link.set(Mode::BlackHole { from_client, from_server });
        assert_eq!(says(&mut stream, "two").await, None);
        link.heal();
        let mut late = [0; 3];
        stream.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"two");
    }
    assert!(Counts::of(&link.counts().hindered) >= 3);
}

#[tokio::test]
async fn a_half_open_link_swallows_old_connections_and_passes_new_ones() {
    let link = echo().await;
    let mut old = TcpStream::connect(&link.addr).await.unwrap();
    assert!(says(&mut old, "one").await.is_some());
    link.half_open();
    assert_eq!(says(&mut old, "two").await, None);
    let mut new = TcpStream::connect(&link.addr).await.unwrap();
    assert!(says(&mut new, "three").await.is_some());
    link.heal();
    assert!(timeout(BRIEFLY, old.read_u8()).await.unwrap().is_err(), "its other end does not know it");
    assert!(says(&mut new, "four").await.is_some());
}

#[tokio::test]
async fn a_link_resets_refuses_and_cuts() {
    let link = echo().await;
    let mut stream = TcpStream::connect(&link.addr).await.unwrap();
    assert!(says(&mut stream, "one").await.is_some());
    link.reset();
    assert!(timeout(BRIEFLY, stream.read_u8()).await.unwrap().is_err());
    link.set(Mode::Refuse);
    let mut refused = TcpStream::connect(&link.addr).await.unwrap();
    assert!(timeout(BRIEFLY, refused.read_u8()).await.unwrap().is_err());
    link.set(Mode::CutAfter(5));
    let mut cut = TcpStream::connect(&link.addr).await.unwrap();
    assert!(says(&mut cut, "one").await.is_some());
    assert_eq!(says(&mut cut, "two").await, None);
    assert_eq!(Counts::of(&link.counts().resets), 2);
}

#[tokio::test]
async fn a_slow_link_takes_its_time() {
    let link = echo().await;
    let mut stream = TcpStream::connect(&link.addr).await.unwrap();
    for mode in [Mode::Delay(Duration::from_millis(30)), Mode::Rate(100)] {
        link.set(mode);
        let began = Instant::now();
        assert!(says(&mut stream, "three").await.is_some());
        assert!(began.elapsed() >= Duration::from_millis(60), "{mode:?}: there and back");
    }
}

#[test]
fn messages_are_cut_where_they_end_however_they_arrive() {
    let mut stream = vec![0, 0, 0, 8, 1, 2, 3, 4];
    stream.extend([b'Q', 0, 0, 0, 6, 9, 9, b'S', 0, 0, 0, 4]);
    let mut messages = Messages::new(true);
    let found: Vec<_> = stream.iter().flat_map(|byte| messages.feed(&[*byte])).collect();
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [8, 7, 5]);
    assert_eq!(Messages::new(true).feed(&stream), found);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_lost_after_the_change_was_made() {
    let database = TestDatabase::create().await;
    let observer = connect(database.url()).await;
    let setup = "CREATE TABLE changed (n int);
                 CREATE FUNCTION muster_apply(n int) RETURNS int LANGUAGE sql AS 'INSERT INTO changed VALUES (n) RETURNING n'";
    observer.batch_execute(setup).await.unwrap();
    let (url, link) = crate::faults::world::database_link(database.url()).await;
    let client = connect(&url).await;
    let statement = client.prepare("SELECT muster_apply($1)").await.unwrap();
    client.query_one(&statement, &[&1]).await.unwrap();
    link.lose_answers(1);
    client.simple_query("SELECT 1").await.unwrap();
    let lost = client.query_one(&statement, &[&2]).await.unwrap_err();
    assert!(lost.code().is_none() && client.is_closed(), "{lost:?}");
    assert_eq!(get::<i64>(&observer, "SELECT count(*) FROM changed").await, 2);
    assert_eq!(Counts::of(&link.counts().answers_lost), 1);

    let client = connect(&url).await;
    client.batch_execute("LISTEN muster").await.unwrap();
    link.mute(true);
    client.batch_execute("NOTIFY muster").await.unwrap();
    assert_eq!(Counts::of(&link.counts().notifications_lost), 1);
}
