//! Takes the options that the driver does not know out of a database URL, in both of its forms.
//!
//! It finds them where the driver would: credentials end at the first `@`, options begin at the first `?` after that.
//! What it cannot make sense of it leaves in, for the driver to refuse.

use percent_encoding::percent_decode_str;

use super::error::UrlError;

/// Options that are given a meaning here, or refused by name.
const OURS: [&str; 19] = [
    "gssencmode",
    "krbsrvname",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "ssl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslmode",
    "sslpassword",
    "sslrootcert",
    "sslsni",
];

/// A text in two parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// What the driver reads.
    pub(super) rest: String,
    /// Options of [`OURS`], decoded, in their order.
    pub(super) options: Vec<(String, String)>,
}

/// Splits a URL or a list of keywords.
pub(super) fn split(text: &str) -> Result<Split, UrlError> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return split_url(text);
    }
    let whole = || Split { rest: text.to_owned(), options: Vec::new() };
    Ok(keywords(text).map_or_else(whole, divide))
}

fn split_url(text: &str) -> Result<Split, UrlError> {
    let after_credentials = text.find('@').map_or(0, |at| at + 1);
    let (credentials, places) = text.split_at(after_credentials);
    let Some((places, query)) = places.split_once('?') else {
        return Ok(Split { rest: text.to_owned(), options: Vec::new() });
    };
    let (mut options, mut kept) = (Vec::new(), Vec::new());
    for part in query.split('&') {
        match part.split_once('=') {
            Some((key, value)) if OURS.contains(&decode(key)?.as_str()) => options.push((decode(key)?, decode(value)?)),
            _ => kept.push(part),
        }
    }
    Ok(Split { rest: format!("{credentials}{places}?{}", kept.join("&")), options })
}

fn decode(text: &str) -> Result<String, UrlError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(String::from).map_err(|_| UrlError::new("has an option that is not UTF-8 after percent-decoding"))
}

fn divide(pairs: Vec<(String, String)>) -> Split {
    let (options, rest): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| OURS.contains(&key.as_str()));
    let quote =
        |(key, value): &(String, String)| format!("{key}='{}'", value.replace('\\', r"\\").replace('\'', r"\'"));
    Split { rest: rest.iter().map(quote).collect::<Vec<_>>().join(" "), options }
}

/// Reads `key = value` pairs, with values in single quotes or without, and backslashes before special characters.
/// `None` where that is not what the text is.
fn keywords(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        let (value, after) = value(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Some(pairs)
}

/// Reads a value at the beginning of the text, and returns what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, text.get(at + 1..)?)),
            blank if blank.is_whitespace() && !quoted => return Some((value, text.get(at..)?)),
            other => value.push(other),
        }
    }
    // The end of the text ends a value, unless a quote is open.
    (!quoted && !value.is_empty()).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, Vec<(String, String)>) {
        let Split { rest, options } = split(text).expect("can be split");
        (rest, options)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_of_a_url_are_decoded_and_the_rest_stays_as_it_is() {
        let (rest, options) =
            parts("postgres://u:p%40@h:1/d?sslmode=verify-full&options=-c%20a%3Db&sslrootcert=%2Fa%20b%2Fca.pem");
        assert_eq!(rest, "postgres://u:p%40@h:1/d?options=-c%20a%3Db");
        assert_eq!(options, pairs(&[("sslmode", "verify-full"), ("sslrootcert", "/a b/ca.pem")]));
    }

    #[test]
    fn a_question_mark_in_a_password_begins_no_options() {
        let (rest, options) = parts("postgres://u:p?sslmode=x@h/d?sslmode=require");
        assert_eq!(rest, "postgres://u:p?sslmode=x@h/d?");
        assert_eq!(options, pairs(&[("sslmode", "require")]));
        assert_eq!(parts("postgres://h/d").1, pairs(&[]));
    }

    #[test]
    fn keywords_may_be_quoted_and_escaped() {
        let (rest, options) =
            parts(r"host = h  password='a \'b\\ sslmode=x' sslmode=verify-ca sslrootcert='/a b' user=u\ v");
        assert_eq!(rest, r"host='h' password='a \'b\\ sslmode=x' user='u v'");
        assert_eq!(options, pairs(&[("sslmode", "verify-ca"), ("sslrootcert", "/a b")]));
    }

    #[test]
    fn text_that_is_no_keyword_list_is_left_to_the_driver() {
        for text in ["secret", "host=h password=a b sslmode=require", "password='a sslmode=require", "sslmode=", "=x"] {
            assert_eq!(parts(text), (text.to_owned(), Vec::new()), "{text}");
        }
    }

    #[test]
    fn the_driver_reads_the_rest_as_it_would_have_read_the_whole() {
        let text = r"host=h user='it\'s' password='p \\ w' dbname=d sslmode=disable";
        let whole: tokio_postgres::Config = text.parse().expect("valid");
        let mut rest: tokio_postgres::Config = parts(text).0.parse().expect("valid");
        assert_eq!(rest.ssl_mode(tokio_postgres::config::SslMode::Disable), &whole);
    }
}
