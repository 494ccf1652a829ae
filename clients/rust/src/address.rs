//! Addresses of daemons: `host:port`, `http://host:port` or `host`, separated by commas.

use http::uri::Authority;

use crate::error::Error;

/// The port of a daemon unless it was told otherwise.
const DEFAULT_PORT: u16 = 7717;

/// Reads a list of addresses, in the order in which they are tried.
pub(crate) fn parse_list(field: &str, text: &str) -> Result<Vec<String>, Error> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let addresses = entries.map(|entry| parse(field, entry)).collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() {
        return Err(Error::invalid(field, "names no daemon; give host:port, or a list separated by commas"));
    }
    Ok(addresses)
}

/// Reads one address and completes it to `host:port`.
pub(crate) fn parse(field: &str, text: &str) -> Result<String, Error> {
    if text.starts_with("https://") {
        let problem = format!("{text} asks for TLS, which this version does not support; use http://");
        return Err(Error::invalid(field, problem));
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let malformed =
        || Error::invalid(field, format!("{text:?} is no address; give host:port, with an IPv6 address in brackets"));
    let authority: Authority = rest.parse().map_err(|_| malformed())?;
    let host = authority.host();
    if host.is_empty() || authority.as_str().contains('@') {
        return Err(malformed());
    }
    match authority.port_u16() {
        Some(port) => Ok(format!("{host}:{port}")),
        None if authority.as_str() == host => Ok(format!("{host}:{DEFAULT_PORT}")),
        None => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_scheme_or_port_is_completed() {
        let read = parse_list("daemons", " http://a:1/, b ,[::1]:9,[::2],10.0.0.1,").unwrap();
        assert_eq!(read, ["a:1", "b:7717", "[::1]:9", "[::2]:7717", "10.0.0.1:7717"]);
    }

    #[test]
    fn address_that_cannot_work_is_refused_with_the_field() {
        for text in ["", ",", "https://h:1", "http://", "h:99999", "h:", "::1", "u@h:1", "h:1/path", "a b:1"] {
            let error = parse_list("MUSTERD_ADDR", text).unwrap_err();
            assert_eq!(error.violations()[0].field(), "MUSTERD_ADDR", "{text}");
        }
    }
}
