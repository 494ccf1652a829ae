//! Secrets from files: `--database-url-file` and its like, for what must be neither in arguments nor in the environment.
//!
//! Orchestrators mount secrets as files, and editors end files with a newline and may begin them with a byte order mark,
//! so these do not count. A
//! file that is empty is an error: a secret that was not filled in must not become "no secret".

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The longest secret, in bytes.
pub const SECRET_MAX_BYTES: u64 = 64 << 10;

/// Why the file of a secret was refused: one line, without a part of the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {} {what}", path.display())]
pub struct SecretError {
    flag: &'static str,
    path: PathBuf,
    what: String,
}

/// Reads the secret in a file that `flag` names.
///
/// # Errors
///
/// [`SecretError`]: the file cannot be read, is over [`SECRET_MAX_BYTES`], is not UTF-8, or has nothing in it.
pub fn read(flag: &'static str, path: &Path) -> Result<String, SecretError> {
    let refuse = |what: String| SecretError { flag, path: path.into(), what };
    let read = || -> io::Result<Vec<u8>> {
        if fs::metadata(path)?.len() > SECRET_MAX_BYTES {
            return Err(io::Error::other("it is over 64 KiB"));
        }
        fs::read(path)
    };
    let bytes = read().map_err(|error| refuse(format!("cannot be read: {error}; correct the path, or its rights")))?;
    let text =
        String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8 text; write the secret as text".to_owned()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.trim().is_empty() {
        return Err(refuse("is empty; write the secret into it, or leave the flag out".to_owned()));
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8]) -> Result<String, SecretError> {
        let path = std::env::temp_dir().join(format!("musterd-secret-{}", uuid::Uuid::new_v4()));
        fs::write(&path, content).expect("a file");
        let read = read("--database-url-file", &path);
        fs::remove_file(&path).expect("a file");
        read
    }

    #[test]
    fn newlines_at_the_end_do_not_count_and_blanks_do() {
        for (content, secret) in
            [("s", "s"), ("s\n", "s"), ("s\r\n", "s"), ("\u{feff}s\r\n", "s"), ("a\nb \n\n", "a\nb ")]
        {
            assert_eq!(written(content.as_bytes()).as_deref(), Ok(secret));
        }
    }

    #[test]
    fn a_file_without_a_secret_is_refused_by_flag_and_path() {
        for (content, part) in [(&b""[..], "is empty"), (b" \n", "is empty"), (b"s3cret\xff", "is not UTF-8")] {
            let error = written(content).expect_err("no secret").to_string();
            assert!(error.starts_with("--database-url-file: /") && error.contains(part), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = read("--database-url-file", Path::new("/nonexistent")).expect_err("no file").to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }
}
