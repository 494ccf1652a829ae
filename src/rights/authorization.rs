//! The header that carries a token: read in one way on both ports.

use http::{HeaderMap, header::AUTHORIZATION};

/// The `Authorization` of a call. A value that is no text, or one of several, is an empty text: no credential that is accepted, and
/// not the absence of one.
#[must_use]
pub fn authorization(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { "" } else { first.to_str().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_that_is_there_twice_is_read_as_none_that_is_accepted() {
        let mut headers = HeaderMap::new();
        assert_eq!(authorization(&headers), None);
        headers.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        assert_eq!(authorization(&headers), Some("Bearer a"));
        headers.append(AUTHORIZATION, "Bearer b".parse().unwrap());
        assert_eq!(authorization(&headers), Some(""));
    }
}
