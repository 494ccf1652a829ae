//! Serves the HTTP port until told to stop.

use std::{io, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    listener::{Listener, Peer},
    routes::Http,
};
use crate::tls;

/// How long open connections are waited for after the token was cancelled. The server's own graceful shutdown waits
/// for a connection that never sends a request without any limit.
pub const GRACE: Duration = Duration::from_secs(1);

/// Serves `http` on `listener`, with `tls` encrypted connections only, until `token` is cancelled and open connections have ended, at most [`GRACE`] later.
///
/// # Errors
///
/// None at present: failed accepts are repeated.
pub async fn serve(
    listener: TcpListener,
    tls: Option<tls::Acceptor>,
    http: Http,
    token: CancellationToken,
) -> io::Result<()> {
    let listener = Listener::new(listener, tls, http.refused().clone());
    let routes = http.router().into_make_service_with_connect_info::<Peer>();
    let server = axum::serve(listener, routes).with_graceful_shutdown(token.clone().cancelled_owned());
    let overdue = async {
        token.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = server.into_future() => ended,
        () = overdue => {
            tracing::debug!("http connections did not end in time");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Instant,
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinHandle,
    };

    use super::*;
    use crate::{
        access::Access,
        api::status_cache::{Sources, StatusCache},
        audit::{Audit, Scope},
        clock::Clock,
        http::host::Hosts,
        lifecycle::{Condition, Readiness},
        metrics,
        stats::StatsCache,
        status,
        view::View,
    };

    struct Served {
        address: SocketAddr,
        readiness: Readiness,
        refreshed: Arc<AtomicUsize>,
        token: CancellationToken,
        server: JoinHandle<io::Result<()>>,
    }

    async fn served() -> Served {
        let (recorder, handle) = metrics::build().unwrap();
        let (readiness, refreshed) = (Readiness::new(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&refreshed);
        let token = CancellationToken::new();
        let (view, recorded) = (View::new(Clock::new()).0, readiness.clone());
        let conditions = move || {
            let states = recorded.snapshot().conditions.into_iter();
            states.map(|it| status::Condition { name: it.condition.name(), ok: it.ok, detail: it.detail }).collect()
        };
        let sources = Sources {
            stats: StatsCache::new(view.clone()),
            view,
            facts: status::Gather::new(move || status::Facts { conditions: conditions(), ..status::Facts::default() }),
            daemon_id: uuid::Uuid::nil(),
            grpc_address: "127.0.0.1:7717".to_owned(),
            beats_received: Arc::new(|| 0),
            epoch: Arc::new(|| Box::pin(async { None })),
            ended: Arc::new(|_, _| Box::pin(async { None })),
        };
        let cache = StatusCache::new(sources, crate::api::summary::render, token.clone());
        let http = ::metrics::with_local_recorder(&recorder, || {
            Http::new(
                handle,
                readiness.clone(),
                cache,
                (Hosts::default(), Access::open(), Audit::new(Scope::default(), Clock::new())),
                move || {
                    counter.fetch_add(1, Ordering::SeqCst);
                },
            )
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, None, http, token.clone()));
        Served { address, readiness, refreshed, token, server }
    }

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {request}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readyz_names_what_is_missing_as_text_and_as_json() {
        let served = served().await;
        for condition in Condition::ALL {
            served.readiness.set(condition, true, "");
        }
        let answer = get(served.address, "/readyz HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\nready\n"), "{answer}");

        served.readiness.set(Condition::Feed, false, "no answer for 4 s");
        let answer = get(served.address, "/readyz HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains("[missing]  feed: no answer for 4 s\n") && answer.contains("[ok]       view\n"),
            "{answer}"
        );

        let answer = get(served.address, "/readyz HTTP/1.1\r\nAccept: application/json").await;
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!((&body["ready"], &body["problems"][0]["code"]), (&false.into(), &"not_ready".into()));
        assert_eq!(
            body["conditions"][3],
            serde_json::json!({"name": "feed", "ok": false, "state": "missing", "detail": "no answer for 4 s"})
        );
    }

    #[tokio::test]
    async fn metrics_are_refreshed_before_they_are_rendered() {
        let served = served().await;
        let answer = get(served.address, "/metrics HTTP/1.1").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("musterd_ready 0"), "{answer}");
        assert_eq!(served.refreshed.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn other_paths_are_answered_in_text() {
        let served = served().await;
        assert!(get(served.address, "/livez HTTP/1.1").await.ends_with("\r\n\r\nok\n"));
        assert!(get(served.address, "/ HTTP/1.1").await.contains("/readyz"));
        assert!(get(served.address, "/nothing HTTP/1.1").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn stops_in_time_although_a_connection_never_sends_a_request() {
        let served = served().await;
        let mut parked = TcpStream::connect(served.address).await.unwrap();
        parked.write_all(b"GET /livez").await.unwrap();
        assert!(get(served.address, "/livez HTTP/1.1").await.contains("ok"));
        let started = Instant::now();
        served.token.cancel();
        served.server.await.unwrap().unwrap();
        assert!(started.elapsed() < GRACE * 3, "{:?}", started.elapsed());
    }
}
