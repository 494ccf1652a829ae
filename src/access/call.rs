//! What a call shows of its caller: read in one way on both ports.

use http::{HeaderMap, header::AUTHORIZATION};

use super::{certificate::Certificate, memory::Memory};

/// What a call shows of its caller, and from where it comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// The client certificate of its connection.
    pub certificate: Option<&'a Certificate>,
    /// Its `Authorization`.
    pub authorization: Option<&'a str>,
    /// The address it comes from, as a number; equal addresses have equal ones.
    pub address: u32,
    /// What the connection remembers.
    pub memory: Option<&'a Memory>,
}

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
