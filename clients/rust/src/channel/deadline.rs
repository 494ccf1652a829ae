//! The deadline of a call. tonic's own channel keeps it; a service in its place has to.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::timeout;
use tonic::Status;

/// How long a call may take, as its headers tell the server.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The protocol allows eight digits.
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// What a call returns within its time.
pub(super) async fn within<T>(
    limit: Option<Duration>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(limit) = limit else { return call.await };
    timeout(limit, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {limit:?}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_read_as_the_protocol_writes_it() {
        let read = |text: &str| of(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]));
        assert_eq!(read("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!((read("2M"), read("3S")), (Some(Duration::from_secs(120)), Some(Duration::from_secs(3))));
        assert_eq!((read("4m"), read("5u")), (Some(Duration::from_millis(4)), Some(Duration::from_micros(5))));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for text in ["", "S", "1", "1x", "-1S", "123456789S", "\u{e9}"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }
}
